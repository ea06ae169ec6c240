"""GGUF to a Hugging Face folder: the same numbers, the same tokens, once, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_base
from tiny_gguf import make_tiny_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, StorageError
from packtrain.model.gguf import convert, llama3_factors
from packtrain.model.weights import load_model, load_tokenizer, resolve_base

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("gguf") / "base")


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return torch.as_tensor(model(torch.tensor([ids])).logits)


def test_the_same_numbers(base: Path, tmp_path: Path) -> None:
    made = convert(make_tiny_gguf(base, tmp_path / "m.gguf"), tmp_path / "made")
    assert torch.equal(logits(made, [1, 2, 3, 300]), logits(base, [1, 2, 3, 300]))


def test_quantised_weights_are_read_and_kept_exactly(base: Path, tmp_path: Path) -> None:
    made = convert(make_tiny_gguf(base, tmp_path / "m.gguf", quantised=True), tmp_path / "made")
    ours, theirs = logits(made, [1, 2, 3, 300]), logits(base, [1, 2, 3, 300])
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)
    config = json.loads((made / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config


def test_tied_embeddings(tmp_path: Path) -> None:
    tied = make_tiny_base(tmp_path / "tied", tied=True)
    made = convert(make_tiny_gguf(tied, tmp_path / "m.gguf"), tmp_path / "made")
    assert json.loads((made / "config.json").read_text())["tie_word_embeddings"] is True
    assert torch.equal(logits(made, [5, 6]), logits(tied, [5, 6]))


def test_tokenizer_and_template(base: Path, tmp_path: Path) -> None:
    made = convert(make_tiny_gguf(base, tmp_path / "m.gguf"), tmp_path / "made")
    ours, theirs = AutoTokenizer.from_pretrained(made), AutoTokenizer.from_pretrained(base)
    chat = [{"role": "user", "content": "한글 & é 1234"}, {"role": "assistant", "content": "x\n"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)
    text = theirs.apply_chat_template(chat, tokenize=False)
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.decode(ours(text).input_ids) == text
    assert (ours.eos_token, ours.pad_token) == ("<|im_end|>", "<|pad|>")
    # What transformers 4.57 needs, which 5 does not write.
    settings = json.loads((made / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert json.loads((made / "special_tokens_map.json").read_text())["eos_token"] == "<|im_end|>"
    assert json.loads((made / "generation_config.json").read_text())["eos_token_id"] == ours.eos_token_id


def test_digits_are_split_as_the_vocabulary_was_learned(base: Path, tmp_path: Path) -> None:
    made = convert(make_tiny_gguf(base, tmp_path / "m.gguf", pre="smollm"), tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(made)
    # GPT-2 alone would leave the second space with the number, and the two could not merge.
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]


@pytest.mark.parametrize("pre", ["something-new", "default", None])
def test_an_unknown_split_is_refused(base: Path, tmp_path: Path, pre: str | None) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf", pre=pre)
    with pytest.raises(ConfigError, match=r"m\.gguf: its tokenizer cuts text in a way that is not known"):
        convert(path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_llama_3_rope_scaling_is_carried_over(tmp_path: Path) -> None:
    shape = {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    }
    scaled = make_tiny_base(tmp_path / "scaled", shape=shape)
    factors = llama3_factors(500000.0, 16, 8.0)
    path = make_tiny_gguf(scaled, tmp_path / "m.gguf", pre="llama-bpe", rope_freqs=factors)
    made = convert(path, tmp_path / "made")
    config = json.loads((made / "config.json").read_text())
    assert config["rope_parameters"] == shape["rope_parameters"]
    assert (config["rope_theta"], config["rope_scaling"]["factor"]) == (500000.0, 8.0)  # transformers 4
    assert torch.equal(logits(made, list(range(200))), logits(scaled, list(range(200))))


@pytest.mark.parametrize("how", ["factors", "type"])
def test_other_rope_scaling_is_refused(base: Path, tmp_path: Path, how: str) -> None:
    factors = np.linspace(1, 9, 8, dtype=np.float32) if how == "factors" else None
    path = make_tiny_gguf(
        base, tmp_path / "m.gguf", rope_freqs=factors, rope_scaling="yarn" if how == "type" else None
    )
    with pytest.raises(ConfigError, match="rotary positions are scaled in a way that is not known"):
        convert(path, tmp_path / "made")


def test_an_unknown_architecture(base: Path, tmp_path: Path) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf", arch="mamba99")
    with pytest.raises(ConfigError, match="mamba99"):
        convert(path, tmp_path / "made")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.9])
def test_a_file_that_is_cut_short(base: Path, tmp_path: Path, share: float) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf")
    os.truncate(path, max(4, int(path.stat().st_size * share)))
    with pytest.raises(StorageError, match="damaged or cut short"):
        convert(path, tmp_path / "made")
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == []


def test_a_tensor_is_missing(base: Path, tmp_path: Path) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(StorageError, match=r"it lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        convert(path, tmp_path / "made")


@pytest.mark.slow
def test_the_disk_is_full(base: Path, tmp_path: Path) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf")
    code = (
        "import resource, signal, sys; from pathlib import Path; from packtrain.errors import StorageError\n"
        "from packtrain.model.gguf import convert; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: convert(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except StorageError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "made")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"cannot convert {path}")
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "made.tmp").exists()


def test_not_gguf_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("hello")
    with pytest.raises(ConfigError, match="is not a GGUF file"):
        resolve_base(ModelConfig(source=str(tmp_path / "m.gguf")))
    with pytest.raises(ConfigError, match="is not there"):
        resolve_base(ModelConfig(source=str(tmp_path / "none.gguf")))


def test_without_the_extra(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError) as caught:
        convert(path, tmp_path / "made")
    assert caught.value.hint == "pip install 'packtrain[gguf]'"


def test_resolve_converts_once(base: Path, tmp_path: Path) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf")
    config, cache, said = ModelConfig(source=str(path)), tmp_path / "cache", list[str]()
    first = resolve_base(config, cache=cache, on_progress=said.append)
    assert said == ["converting m.gguf to safetensors (once)"]
    assert resolve_base(config, cache=cache, on_progress=said.append) == first
    assert len(said) == 1
    assert first.identity == str(first.folder)
    assert first.folder.name == first.revision  # the file's sha256
    assert load_tokenizer(first, config).eos_token == "<|im_end|>"
    model = load_model(first, config, device=CPU, dtype=torch.float32)
    assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.slow
def test_two_processes_and_one_that_was_killed(base: Path, tmp_path: Path) -> None:
    path = make_tiny_gguf(base, tmp_path / "m.gguf")
    (tmp_path / "made.tmp").mkdir()
    (tmp_path / "made.tmp" / "stray").write_text("left by a process that was killed")
    code = (
        "import sys; from pathlib import Path; from packtrain.model.gguf import convert\n"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=print)"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "made")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert said.count("converting") == 1
    assert not (tmp_path / "made" / "stray").exists()
    assert not (tmp_path / "made.tmp").exists()
