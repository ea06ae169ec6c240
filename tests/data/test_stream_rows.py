"""Streamed rows with names of columns, a system prompt, reasoning and weights: as without streaming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_kit import tokenizer
from reasoning_templates import thinker

from packtrain.config import DataConfig
from packtrain.data.prepare import prepare
from packtrain.data.report import Findings
from packtrain.data.stream import Position, Window
from packtrain.data.streaming import open_streamed, sample
from packtrain.errors import ConfigError, DataError

NAMES = {"prompt": "q", "completion": "a"}


def pairs(folder: Path, count: int = 12) -> str:
    rows = [{"q": f"What is {n}?", "a": f"It is {n}.", "weight": n % 3} for n in range(count)]
    return written(folder, rows)


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / "a.jsonl")


def config(train: str, **data: Any) -> DataConfig:
    whole = {"train": train, "validation": 0.0, "max_length": 256, "streaming": True}
    return DataConfig.model_validate(whole | data)


def window(data: DataConfig, base: Any = None, tokens: int = 256) -> Window:
    streamed = open_streamed(data, base or tokenizer("smollm2"), chat_template=None, seed=1)
    return streamed.maker(tokens, Position(), Findings()).make(0)


def test_streamed_rows_are_those_that_are_read_whole(tmp_path: Path) -> None:
    data = config(pairs(tmp_path), columns=NAMES, system="Be brief.")
    whole = prepare(data, tokenizer("smollm2"), chat_template=None, seed=1, keep=False)
    made = window(data, tokens=int(whole.train.lengths.sum()))
    assert made.rows.weights is not None
    assert whole.train.weights is not None
    assert set(made.rows.weights.tolist()) == {1.0, 2.0}
    assert made.findings.weightless_rows == 4
    weight_of = dict(zip(whole.train.places, whole.train.weights, strict=True))
    digest_of = dict(zip(whole.train.places, map(bytes, whole.train.digests), strict=True))
    for place, weight, digest in zip(made.rows.places, made.rows.weights, made.rows.digests, strict=True):
        assert (weight_of[place], digest_of[place]) == (weight, bytes(digest))


def test_validation_counts_every_row_once_and_the_weights_are_told(tmp_path: Path) -> None:
    data = config(pairs(tmp_path), columns=NAMES, validation=0.3)
    found = sample(data, tokenizer("smollm2"), chat_template=None, seed=1)
    assert found.train.weights is not None
    assert found.validation is not None
    assert found.validation.weights is None
    assert any("data.weight_column: null" in line for line in found.report.warnings())
    assert np.concatenate(found.parts).tolist() == list(range(len(found.train)))
    silent = sample(
        data.model_copy(update={"weight_column": None}), tokenizer("smollm2"), chat_template=None, seed=1
    )
    assert silent.train.weights is None


def test_a_column_that_is_missing_is_told_in_the_files_names(tmp_path: Path) -> None:
    source = pairs(tmp_path)
    with pytest.raises(DataError, match="of no format that data"):
        window(config(source, columns={"prompt": "question", "completion": "a"}))
    with pytest.raises(DataError, match=r"a\.jsonl:1: question: is missing"):
        window(config(source, columns={"prompt": "question", "completion": "a"}, format="prompt-completion"))


def test_a_system_prompt_that_the_template_refuses_is_told_before_a_row_is_tokenised(tmp_path: Path) -> None:
    data = config(pairs(tmp_path), columns=NAMES, system="Say <|im_end|> now.")
    with pytest.raises(ConfigError, match=r"data\.system"):
        open_streamed(data, tokenizer("smollm2"), chat_template=None, seed=1)


def test_turns_that_are_not_learnt_are_counted(tmp_path: Path) -> None:
    thinks = {"role": "assistant", "content": "1", "reasoning_content": "hm"}
    asks = {"role": "user", "content": "one"}
    made = window(
        config(written(tmp_path, [{"messages": [asks, thinks, asks, thinks]}])), thinker("qwen3"), 1
    )
    assert made.findings.thoughtless_turns == 1
