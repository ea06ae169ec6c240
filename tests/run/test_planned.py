"""What was planned is found by the run it was planned for, and stands beside what happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from packtrain.config import RunConfig
from packtrain.plan.summary import Summary
from packtrain.run.planned import PLANNED, closing_line, keep, recall
from packtrain.rundir import EventWriter

SUMMARY = Summary(
    device="cpu",
    peak_bytes=2_000_000_000,
    reserved_bytes=2_000_000_000,
    micro_batch=8,
    steps=66,
    tokens_per_second=1000.0,
    seconds={"low": 60.0, "expected": 90.0, "high": 120.0},
    training_seconds={"low": 50.0, "expected": 60.0, "high": 70.0},
    usd=None,
)


def config(seed: int = 1, name: str = "run") -> RunConfig:
    plain = {"name": name, "model": {"source": "m"}, "data": {"train": "d"}, "train": {"seed": seed}}
    return RunConfig.model_validate(plain)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_same_settings_find_their_plan_and_others_do_not() -> None:
    assert recall(config(), "cpu", {}) is None
    keep(config(), SUMMARY)
    assert recall(config(), "cpu", {}) == SUMMARY
    assert recall(config(seed=2), "cpu", {}) is None
    assert recall(config(), "cuda", {}) is None


def test_a_pod_has_it_from_its_environment() -> None:
    keep(config(), SUMMARY)
    assert recall(config(seed=2), "cpu", {PLANNED: SUMMARY.to_json()}) == SUMMARY
    assert "\n" not in SUMMARY.to_json()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"device": "cpu"}', '{"other": 1}'])
def test_a_plan_of_another_version_is_none(text: str) -> None:
    assert recall(config(), "cpu", {PLANNED: text}) is None


def test_a_cache_that_cannot_be_written_is_no_failure(cache: Path) -> None:
    cache.write_text("a file")
    keep(config(), SUMMARY)
    assert recall(config(), "cpu", {}) is None


def test_the_closing_line_has_both(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with EventWriter(events, 1) as writer:
        writer.write("start", 0, run_id="x", resumed_from=None)
        assert closing_line(events) is None
        writer.write("plan", 0, **SUMMARY.fields())
        assert closing_line(events) is None  # it has not happened yet
        writer.write("plan", 66, happened={"seconds": 95.2, "peak_bytes": 1_900_000_000})
    assert closing_line(events) == (
        "planned: 1 min 30 s (1 min 00 s to 2 min 00 s), took 1 min 35 s; memory 2.00 GB, was 1.90 GB"
    )


def test_of_a_plan_without_a_time_only_memory_is_said(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with EventWriter(events, 1) as writer:
        writer.write("plan", 0, **(SUMMARY.fields() | {"seconds": None}))
        writer.write("plan", 66, happened={"seconds": 95.2, "peak_bytes": None})
    assert closing_line(events) is None
