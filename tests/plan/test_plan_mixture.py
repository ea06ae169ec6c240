"""A plan counts a mixture's rows as often as an epoch sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer
from whole_run import facts, write_rows

from packtrain.config import RunConfig
from packtrain.data.prepare import prepare
from packtrain.plan.data import DataStats, statistics


def config(train: Any, **data: Any) -> RunConfig:
    sections = {"name": "p", "model": {"source": "o/m"}, "train": {"batch_tokens": 512}}
    settings = {"train": train, "validation": 0.0, "max_length": 128}
    return RunConfig.model_validate(sections | {"data": settings | data})


def counted(run: RunConfig, **limits: Any) -> DataStats:
    return statistics(run, tokenizer("smollm2"), None, **limits)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str]:
    short = write_rows(tmp_path / "a.jsonl", facts(40))
    long = facts(30)
    for row in long:
        row["response"] += " So it is." * 5
    return str(short), str(write_rows(tmp_path / "b.jsonl", long))


def test_whole_weights_are_counted_exactly(sources: tuple[str, str]) -> None:
    run = config([{"source": sources[0], "weight": 3}, {"source": sources[1]}])
    found = counted(run)
    made = prepare(run.data, tokenizer("smollm2"), chat_template=None, seed=42).report
    assert (found.rows, found.tokens, found.error) == (70, made.train.tokens, 0.0)
    assert found.bins == made.train.bins
    assert found.supervised == pytest.approx(made.train.supervised_tokens / made.train.tokens, abs=0.01)
    assert found.documents == pytest.approx(150 / found.bins)


def test_fractions_and_samples_have_an_error_that_holds(sources: tuple[str, str]) -> None:
    run = config(
        [{"source": sources[0], "weight": 0.5}, {"source": sources[1], "weight": 1.5}], validation=0.1
    )
    made = prepare(run.data, tokenizer("smollm2"), chat_template=None, seed=42).report
    for found in (counted(run), counted(run, most_rows=12)):
        assert found.rows == made.mixture[0].rows + made.mixture[1].rows
        assert found.error > 0
        assert found.tokens == pytest.approx(made.train.tokens, rel=0.05)
        assert found.validation_tokens > 0
