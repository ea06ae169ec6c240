"""What a plan counts of data that is streamed: from the rows that come first, and only from these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer
from plan import closed_form
from plan.models import LLAMA_3_8B

from packtrain.config import RunConfig
from packtrain.model.weights import BaseFiles
from packtrain.plan.answer import Answer
from packtrain.plan.data import DataStats, statistics
from packtrain.plan.options import PlanKeys
from packtrain.plan.plan import Base, planned
from packtrain.plan.shown import lines
from packtrain.plan.target import target_of

STEPS, BATCH, SAMPLED = 500, 1000, 300


def write(path: Path, count: int) -> Path:
    rows = [
        {"prompt": f"What is {n}?", "completion": f"It is {n}," + " so" * (n % 31) + "."}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(path: Path, **data: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "run",
            "model": {"source": "m"},
            "data": {"train": str(path), "streaming": True, "max_length": 256, "validation": 0.0, **data},
            "train": {"max_steps": STEPS, "batch_tokens": BATCH},
        }
    )


def counted(config: RunConfig) -> DataStats:
    return statistics(config, tokenizer("smollm2"), None, most_rows=SAMPLED)


def test_the_first_rows_stand_for_all(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", 1000)
    with path.open("a") as file:
        file.write("{broken\n")
    found = counted(config_of(path))
    assert found.streamed
    assert found.sampled_rows == SAMPLED
    assert found.steps == STEPS
    assert found.tokens_a_step == pytest.approx(BATCH, rel=0.15)
    assert found.trained_tokens == pytest.approx(STEPS * BATCH, rel=0.15)
    assert 0.0 < found.error < 0.1
    assert 0 < found.read_first < SAMPLED / 2
    assert counted(config_of(path, validation=0.1)).validation_tokens > 0


def test_it_is_shown_without_numbers_that_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_form.use(monkeypatch)
    config = config_of(write(tmp_path / "t.jsonl", 1000))
    base = Base(BaseFiles(Path("m"), "m", None, "m"), LLAMA_3_8B)
    keys = PlanKeys.model_validate({})
    plan = planned(config, keys, base, target_of(config.cluster, keys), counted(config), probing=False)
    answer = Answer(plan)
    told = answer.to_json()
    assert (told["data"]["rows"], told["data"]["tokens"], told["data"]["sequences"]) == (None, None, None)
    assert told["data"]["sampled_rows"] == SAMPLED
    assert told["time"]["steps"] == STEPS
    [line] = [line for line in lines(answer) if line.startswith("data ")]
    assert f"streamed; from the first {SAMPLED} rows, ±" in line
