"""Answers in batches: each what its prompt gets alone, whatever its neighbours are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from packtrain.errors import DivergedError
from packtrain.evaluate.batched import generate_all, generate_batch
from packtrain.evaluate.generate import prompt_ids, stream

PROMPTS = ["hi", "안녕, who are you? " * 6, "What is fact 3?", "x " * 40, "?"]


def loaded(folder: Path, kind: str) -> tuple[Any, list[list[int]]]:
    """With a vocabulary's weights far apart, so that rounding decides nothing."""
    make_tiny_base(folder, kind, seed=3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return model, [prompt_ids(tokenizer, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", ["llama", "llama3", "qwen3", "mistral", "gemma", "gemma3", "phi3"])
def test_as_one_at_a_time(tmp_path: Path, kind: str) -> None:
    model, ids = loaded(tmp_path, kind)
    alone = [list(stream(model, each, stop=frozenset(), max_new_tokens=40)) for each in ids]
    assert generate_batch(model, ids, stop=frozenset(), max_new_tokens=40) == alone
    # And with an end: the token that some say first, and others later or never.
    stop = frozenset({alone[0][5]})
    ended = [list(stream(model, each, stop=stop, max_new_tokens=40)) for each in ids]
    assert len({len(each) for each in ended}) > 1
    assert generate_batch(model, ids, stop=stop, max_new_tokens=40) == ended
    seen: list[tuple[int, int]] = []
    assert (
        generate_all(
            model, ids, stop=stop, max_new_tokens=40, batch=2, on_progress=lambda *at: seen.append(at)
        )
        == ended
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_model_that_has_diverged(tmp_path: Path) -> None:
    model, ids = loaded(tmp_path, "llama")
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="NaN"):
        generate_batch(model, ids, stop=frozenset(), max_new_tokens=4)
