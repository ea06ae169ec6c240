"""Small checkpoints whose content tells which step they are of, and stores for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from standins.bucket import BucketServer

from packtrain.storage.gcs import GcsStorage
from packtrain.storage.retry import RetryPolicy
from packtrain.train.checkpoint import CheckpointStore, Snapshot, TrainingState, read_state

QUANTUM = 256 * 1024
#: So that "after retries" takes no time.
QUICK = RetryPolicy(attempts=2, deadline=5.0, first_delay=0.001, max_delay=0.01)
PLACE = "packtrain/tiny/RUN1"


def snapshot(step: int, size: int = 64) -> Snapshot:
    """``size``: numbers in each tensor."""
    weights = {"w": torch.full((size,), float(step))}
    moments = {f"{moment}:w": torch.full((size,), step + 0.5) for moment in ("exp_avg", "exp_avg_sq")}
    return Snapshot(TrainingState(step=step, tokens=step * 100), weights, moments)


def step_of(path: Path | None) -> int:
    """The step that the whole content of a checkpoint is of."""
    assert path is not None
    state = read_state(path)
    assert path.name == f"step-{state.step}" and state.tokens == state.step * 100
    assert set(load_file(path / "adapter.safetensors")["w"].tolist()) == {float(state.step)}
    assert set(load_file(path / "optimizer.safetensors")["exp_avg:w"].tolist()) == {state.step + 0.5}
    return state.step


def no_warning(message: str) -> None:
    raise AssertionError(message)


def make_store(folder: Path, **changed: Any) -> CheckpointStore:
    settings: dict[str, Any] = {"keep": 2, "attempt": 1, "warn": no_warning, "token": lambda: 1}
    return CheckpointStore(folder, **settings | {"retry_delay": 0.02} | changed)


def connect(server: BucketServer) -> GcsStorage:
    """Files of more than 256 KiB go in chunks of so many bytes."""
    return GcsStorage(server.uri(PLACE), retries=QUICK, single_request=QUANTUM, chunk=QUANTUM)


def in_bucket(server: BucketServer) -> list[str]:
    """Names of the checkpoints that are committed in the bucket."""
    names = server.names(f"{PLACE}/checkpoints/")
    return sorted(name.split("/")[-2] for name in names if name.endswith("/commit.json"))


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.002)
