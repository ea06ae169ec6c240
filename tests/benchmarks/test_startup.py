"""The start's run file is one, its table is right, and the README names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import yaml
from contestants import CONTESTANTS
from startup import RUN_FILE, _marked, start_table, step_tokens

from packtrain.config import RunConfig
from packtrain.data.batches import BatchPlan
from packtrain.rundir import EventWriter

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_the_run_file_of_a_start_is_valid() -> None:
    text = RUN_FILE.format(base="/models/a", rows="rows.jsonl", max_length=512, threads=1)
    config = RunConfig.model_validate(yaml.safe_load(text))
    assert (config.train.max_steps, config.train.batch_tokens, config.data.max_length) == (1, 16, 512)


def test_its_steps_are_of_one_sequence() -> None:
    tokens = np.array([500, 20, 300, 512])
    plan = BatchPlan(tokens, 16, epochs=1, seed=42)
    assert sorted(len(plan.batch(step)) for step in range(1, plan.steps + 1)) == [1, 1, 1, 1]


def test_a_first_step_is_seen_in_the_events_that_a_run_writes(tmp_path: Path) -> None:
    assert step_tokens(tmp_path) is None
    with EventWriter(tmp_path / "events.jsonl", 1) as events:
        events.write("start", 0)
        assert step_tokens(tmp_path) is None
        events.write("step", 1, loss=1.0, tokens=222)
        assert step_tokens(tmp_path) == 222


def test_a_first_step_is_seen_in_the_mark_of_a_peer(tmp_path: Path) -> None:
    assert _marked(tmp_path / "mark") is None
    (tmp_path / "mark").write_text("217")
    assert _marked(tmp_path / "mark") == 217


def test_the_table_of_starts_has_seconds_and_parts_of_trl() -> None:
    ours, theirs = {"wall": 4.0, "cpu": 3.0, "tokens": 222}, {"wall": 8.0, "cpu": 12.0, "tokens": 217}
    lines = start_table([{"packtrain": ours, "trl-packed": theirs}]).splitlines()
    assert lines[2:] == [
        "| packtrain | 4.0 | 3.0 | 0.50 | 0.25 | 222 |",
        "| trl-packed | 8.0 | 12.0 | 1.00 | 1.00 | 217 |",
    ]


def test_the_readme_names_the_scripts_and_contestants_that_there_are() -> None:
    scripts = set(re.findall(r"benchmarks/(\w+\.py)", README)) | set(re.findall(r"`(\w+\.py)\b", README))
    assert {name for name in scripts if not (BENCHMARKS / name).exists()} == set()
    table = README.partition("| contestant |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert [name for row in rows for name in re.findall(r"`([\w-]+)`", row)] == list(CONTESTANTS)
