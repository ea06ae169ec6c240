"""Runs that are told of by events of our own: no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packtrain.rundir import EventWriter, Kind, RunDir, RunIdentity, timestamp

Told = tuple[Kind, int, dict[str, Any]]


def step(number: int, **fields: Any) -> Told:
    known = {
        "loss": 3.0 - number / 10,
        "tokens": 100,
        "supervised_tokens": 40,
        "learning_rate": 1e-4,
        "grad_norm": 1.0,
        "tokens_per_second": 1000.0,
        "epoch": 0.1,
        "peak_bytes": 10**9,
    }
    return "step", number, known | fields


def evaluated(number: int, loss: float) -> Told:
    model = "adapter" if number else "base"
    return "eval", number, {"model": model, "loss": loss, "perplexity": 2.0, "supervised_tokens": 9}


def started(resumed_from: int | None = None, **fields: Any) -> Told:
    known = {"run_id": "01A", "name": "a", "steps": 6, "device": "cpu", "resumed_from": resumed_from}
    return "start", resumed_from or 0, known | fields


def saved(number: int) -> Told:
    return "checkpoint", number, {"name": f"1-{number}", "seconds": 0.1, "bytes": 9, "mirrored": False}


DONE: Told = ("end", 6, {"outcome": "done", "exit_code": 0})
PREEMPTED: Told = ("preempted", 3, {"signal": "SIGTERM", "message": "stopped by SIGTERM after step 3 of 6"})


def failed(code: int, message: str) -> Told:
    return "end", 3, {"outcome": "failed", "exit_code": code, "message": message}


Make = Callable[..., RunDir]


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """A run's folder of attempts, each a list of events."""

    def make(*attempts: list[Told], name: str = "a", settings: dict[str, Any] | None = None) -> RunDir:
        run_dir = RunDir(tmp_path / name)
        run_dir.path.mkdir()
        who = RunIdentity(name, "01A", "0" * 64, settings or {"train": {"epochs": 1.0}}, timestamp(0))
        run_dir.identity_file.write_bytes(who.to_json())
        for number, attempt in enumerate(attempts, 1):
            with EventWriter(run_dir.events_file, number) as writer:
                for kind, at, fields in attempt:
                    writer.write(kind, at, **fields)
        return run_dir

    return make
