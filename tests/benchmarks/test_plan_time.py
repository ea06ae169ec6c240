"""A plan's table: its run file is one, and what was said stands beside what came."""

from __future__ import annotations

from pathlib import Path

import plan_time
import pytest
import yaml

from packtrain.config import RunConfig
from packtrain.rundir import EventWriter


def test_the_run_file_that_is_planned_is_valid() -> None:
    text = plan_time.RUN_FILE.format(base="/a", rows="r.jsonl", max_length=512, batch_tokens=2048, threads=2)
    config = RunConfig.model_validate(yaml.safe_load(text))
    assert (config.train.threads, config.train.batch_tokens, config.data.max_length) == (2, 2048, 512)


def test_planned_stands_beside_what_happened(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl", 1) as events:
        events.write("plan", 0, seconds={"expected": 45.0}, training_seconds={"expected": 33.0})
        events.write("step", 1, loss=1.0)
        events.write("plan", 1, happened={"seconds": 50.0, "training_seconds": 30.0})
    found = plan_time.compared(plan_time.told_in((tmp_path / "events.jsonl").read_text()))
    assert found["seconds"] == pytest.approx((45.0, 50.0, -0.1))
    assert found["training_seconds"] == pytest.approx((33.0, 30.0, 0.1))


def test_a_run_that_nobody_planned_is_no_comparison() -> None:
    with pytest.raises(SystemExit, match="has not repeated its plan"):
        plan_time.told_in('{"kind": "step"}\n')
