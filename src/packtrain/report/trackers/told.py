"""What trackers are told: settings and numbers, and where the adapter is in a bucket.

No row of the data, no prompt and no answer, no folder, host, project or account.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packtrain.artifacts.receipt import Receipt
from packtrain.config import RunConfig
from packtrain.errors import PacktrainError
from packtrain.report.facts import settings_of
from packtrain.report.story import moment
from packtrain.report.tensorboard import scalars_of
from packtrain.report.trackers.tracker import About, Ending, Row
from packtrain.rundir import Event, RunDir
from packtrain.storage import is_bucket

#: Of an attempt's start: what ``auto`` became, and how much there is to do.
STARTED = (
    "steps", "rows", "processes", "device", "dtype", "threads", "micro_batch", "activation_checkpointing",
)  # fmt: skip


def about(config: RunConfig, run_id: str, folder: Path, start: Event) -> About:
    """``start``: the attempt's event of that kind."""
    here = {f"run.{key}": start.fields[key] for key in STARTED if start.fields.get(key) is not None}
    return About(run_id, config.name, {"run.id": run_id, **settings_of(config), **here}, folder)


def row_of(event: Event) -> Row | None:
    """The numbers that TensorBoard gets, and how many answers are right; None for an event without."""
    values = scalars_of(event)
    if event.kind == "answers":
        judged = [each for each in event.fields["answers"] if each.get("right_after") is not None]
        for when in ("before", "after") if judged else ():
            right = sum(bool(each[f"right_{when}"]) for each in judged)
            values[f"answers/right_{when}"] = right / len(judged)
    return Row(moment(event), event.step, values) if values else None


def ending(word: Event | None, published: Event | None, run_dir: RunDir) -> Ending:
    """By the attempt's last ``word``, and its event ``published``, where it said them."""
    if word is None:
        return Ending("no last word", 70)
    if word.kind == "preempted":
        return Ending("preempted", 75)
    outcome, code = str(word.fields.get("outcome")), int(word.fields.get("exit_code", 70))
    place = str(published.fields.get("uri")) if published else ""
    output = place if is_bucket(place) else None
    return Ending(outcome, code, _metrics(run_dir) if outcome == "done" else {}, output)


def _metrics(run_dir: RunDir) -> dict[str, float]:
    with suppress(PacktrainError, OSError):
        receipt = Receipt.from_json(run_dir.receipt_file.read_bytes(), str(run_dir.receipt_file))
        return {f"final/{key}": value for key, value in _numbers(receipt.metrics).items()}
    return {}


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[prefix + key] = float(value)
    return found
