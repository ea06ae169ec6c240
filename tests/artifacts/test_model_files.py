"""A fine-tuned model's folder: the base's own files, its weights as trained, opened by plain transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_base
from trained import Trained
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from packtrain.artifacts.model_files import write_model
from packtrain.artifacts.verify_model import reload_model_check
from packtrain.errors import BugError, DivergedError, GateError, PacktrainError, StorageError
from packtrain.model.folder import weights_dtype
from packtrain.model.full import train_all

SAMPLE = torch.arange(40, 64)
SMALL = {"hidden_size": 32, "intermediate_size": 64}


@dataclass(frozen=True)
class Tuned:
    base: Path
    model: PreTrainedModel
    trained: Trained
    """For its card and facts."""

    def write(self, folder: Path, **changes: Any) -> list[str]:
        arguments: dict[str, Any] = {
            "model": self.model,
            "dtype": weights_dtype(self.base),
            "base_folder": self.base,
            "tokenizer": AutoTokenizer.from_pretrained(self.base),
            "chat_template": None,
            "card": replace(self.trained.card, full=True),
            "training": self.trained.training,
        }
        return write_model(folder, **(arguments | changes))

    def logits(self) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(input_ids=SAMPLE[None]).logits[0].clone()
        return logits

    def check(self, folder: Path, logits: torch.Tensor | None = None, **changes: Any) -> float:
        arguments: dict[str, Any] = {"model": self.model, "base_folder": self.base, "sample_ids": SAMPLE}
        expected = self.logits() if logits is None else logits
        return reload_model_check(folder, expected_logits=expected, **(arguments | changes)).logit_error


def tuned(base: Path, trained: Trained, seed: int = 5) -> Tuned:
    """Every weight moved a little, and rounded to the base's type, as at the end of a training."""
    full = train_all(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), seed=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    full.round_to(weights_dtype(base))
    return Tuned(base, full.model, trained)


@pytest.fixture(
    params=["float32 untied llama", "bfloat16 tied llama", "float16 untied llama", "bfloat16 tied gemma"]
)
def each(request: pytest.FixtureRequest, tmp_path: Path, trained: Trained) -> Tuned:
    dtype, tied, kind = request.param.split()
    base = make_tiny_base(tmp_path / "base", kind, dtype=dtype, tied=tied == "tied", shape=SMALL)
    return tuned(base, trained)


@pytest.fixture
def one(tmp_path: Path, trained: Trained) -> Tuned:
    return tuned(make_tiny_base(tmp_path / "base", shape=SMALL), trained)


def test_what_was_trained_comes_back_from_the_files(each: Tuned, tmp_path: Path) -> None:
    names = each.write(tmp_path / "out")
    assert set(names) == {path.name for path in (tmp_path / "out").iterdir()}
    assert each.check(tmp_path / "out") < 1e-6
    before = load_file(each.base / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in after.items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == weights_dtype(each.base)


def test_the_same_model_gives_the_same_bytes(one: Tuned, tmp_path: Path) -> None:
    names = one.write(tmp_path / "a")
    assert one.write(tmp_path / "b") == names
    for name in set(names) - {"training_args.bin"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_large_model_is_cut_into_files_with_an_index(each: Tuned, tmp_path: Path) -> None:
    limit = 30_000
    names = each.write(tmp_path / "out", shard_bytes=limit)
    shards = sorted(name for name in names if name.startswith("model-"))
    assert len(shards) > 2 and "model.safetensors" not in names
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    tensors = [load_file(tmp_path / "out" / name) for name in shards]
    assert all(len(each) == 1 or sum(t.nbytes for t in each.values()) <= limit for each in tensors)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        name: shard for shard, t in zip(shards, tensors, strict=True) for name in t
    }
    assert each.check(tmp_path / "out") < 1e-6


def test_the_base_s_files_are_kept_byte_for_byte(one: Tuned, tmp_path: Path) -> None:
    (one.base / "modeling_own.py").write_text("# the base's own code\n")
    # transformers refuses to write such a config again, though it reads it.
    (one.base / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": false}\n')
    model = AutoModelForCausalLM.from_pretrained(one.base)
    names = replace(one, model=model).write(tmp_path / "out", chat_template="{{ messages[0]['content'] }}")
    for name in ("config.json", "generation_config.json", "modeling_own.py", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (one.base / name).read_bytes(), name
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
    assert "adapter_config.json" not in names


def test_what_was_there_is_replaced_whole_or_not_at_all(one: Tuned, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "stale").write_text("of an adapter")
    tokenizer = AutoTokenizer.from_pretrained(one.base)
    (one.base / "modeling_own.py").symlink_to("/proc/self/mem")
    with pytest.raises(StorageError, match="cannot write"):
        one.write(folder, tokenizer=tokenizer)
    assert [path.name for path in folder.iterdir()] == ["stale"]
    (one.base / "modeling_own.py").unlink()
    one.write(folder, tokenizer=tokenizer)
    assert not (folder / "stale").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/out: Not a directory"):
        one.write(tmp_path / "file" / "out", tokenizer=tokenizer)


def damaged(folder: Path, name: str, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


NORM = "model.norm.weight"


def test_one_bit_in_the_files_is_found(one: Tuned, tmp_path: Path) -> None:
    one.write(tmp_path / "out")

    def flip(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.view(torch.int32).clone()
        bits[3] ^= 1
        return bits.view(torch.float32)

    damaged(tmp_path / "out", NORM, flip)
    with pytest.raises(BugError, match=f"{NORM} differs from what was trained"):
        one.check(tmp_path / "out")


def test_a_cut_file_and_a_missing_weight_are_found(one: Tuned, tmp_path: Path) -> None:
    one.write(tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(PacktrainError, match="is damaged"):
        one.check(tmp_path / "out")
    path.write_bytes(content)
    tensors = load_file(path)
    del tensors[NORM]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(PacktrainError, match=f"1 weights of LlamaForCausalLM are not in its files: {NORM}"):
        one.check(tmp_path / "out")


def test_other_logits_than_in_training_are_found(one: Tuned, tmp_path: Path) -> None:
    one.write(tmp_path / "out")
    with pytest.raises(BugError, match="computes something else than in training"):
        one.check(tmp_path / "out", one.logits() * 1.01)
    with pytest.raises(DivergedError, match="NaN or infinite logits"):
        one.check(tmp_path / "out", one.logits() * float("nan"))


def test_a_weight_that_is_not_finite_is_no_result(one: Tuned, tmp_path: Path) -> None:
    logits = one.logits()
    with torch.no_grad():
        one.model.get_submodule("model.norm").weight[2] = float("inf")
    one.write(tmp_path / "out")
    with pytest.raises(DivergedError, match=f"NaN or infinity in {NORM}"):
        one.check(tmp_path / "out", logits)


def test_a_model_that_is_still_its_base_is_no_result(one: Tuned, tmp_path: Path) -> None:
    plain = replace(one, model=AutoModelForCausalLM.from_pretrained(one.base))
    plain.write(tmp_path / "out")
    with pytest.raises(GateError, match="the trained model is its base"):
        plain.check(tmp_path / "out")


OPEN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
ids = torch.arange(40, 64)[None]
with torch.inference_mode():
    logits = model(ids).logits[0, -1, :8]
template = bool(tokenizer.chat_template)
print(json.dumps({"version": __version__, "logits": logits.tolist(), "template": template}))
"""


@pytest.mark.slow
def test_opens_in_transformers_4(each: Tuned, tmp_path: Path) -> None:
    """PACKTRAIN_TRANSFORMERS4_PYTHON: a python with transformers 4.57."""
    python = os.environ.get("PACKTRAIN_TRANSFORMERS4_PYTHON")
    if not python:
        pytest.skip("PACKTRAIN_TRANSFORMERS4_PYTHON names no python with transformers 4.57")
    each.write(tmp_path / "out", shard_bytes=60_000)
    done = subprocess.run(
        [python, "-c", OPEN, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["version"].startswith("4.57") and found["template"]
    torch.testing.assert_close(torch.tensor(found["logits"]), each.logits()[-1, :8], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_code_of_the_card_runs(one: Tuned, tmp_path: Path) -> None:
    one.write(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert "peft" not in code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
