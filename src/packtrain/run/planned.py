"""What was planned for a run, kept until it has happened, so that both stand beside each other.

``packtrain plan`` leaves its answer in the cache, by the settings that identify the run; ``submit`` gives
it to the pod. A run only repeats it: nothing is planned while GPUs are paid for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packtrain.config import RunConfig, config_hash
from packtrain.plan.summary import Summary
from packtrain.rundir import history, write_atomically
from packtrain.storage.cache import cache_folder
from packtrain.train.progress import duration

PLANNED = "PACKTRAIN_PLANNED"


def keep(config: RunConfig, summary: Summary) -> None:
    """For the run of the same settings on this machine; a cache that cannot be written is no failure."""
    from packtrain.errors import PacktrainError

    with suppress(PacktrainError, OSError):
        write_atomically(_place(config, summary.device), summary.to_json().encode())


def recall(config: RunConfig, device: str, environment: Mapping[str, str] = os.environ) -> Summary | None:
    """What was planned for this run on ``device`` (``cpu`` or ``cuda``); None where nothing was."""
    text = environment.get(PLANNED)
    if text is None:
        try:
            text = _place(config, device).read_text(encoding="utf-8")
        except OSError:
            return None
    try:
        return Summary.from_json(text)
    except (ValueError, TypeError, KeyError):  # of another version
        return None


def _place(config: RunConfig, device: str) -> Path:
    return cache_folder() / "plans" / f"{config_hash(config)}-{device}.json"


def closing_line(events: Path) -> str | None:
    """Planned and happened in one line; None for a run that nobody planned."""
    told: dict[str, Any] = {}
    for event in history(events):
        if event.kind == "plan":
            told = told | event.fields
    happened = told.get("happened")
    if not happened:
        return None
    parts = []
    if told.get("seconds"):
        low, high = duration(told["seconds"]["low"]), duration(told["seconds"]["high"])
        parts.append(
            f"{duration(told['seconds']['expected'])} ({low} to {high}), took {duration(happened['seconds'])}"
        )
    if happened.get("peak_bytes"):
        planned, peak = told["peak_bytes"] / 1e9, happened["peak_bytes"] / 1e9
        parts.append(f"memory {planned:.2f} GB, was {peak:.2f} GB")
    return "planned: " + "; ".join(parts) if parts else None
