"""What checkpoints cost a run's training: by its own events, of whatever size, on whatever machine.

    python benchmarks/checkpoint_cost.py RUN_DIR

Training waits for a checkpoint while the state is copied out of the model, and at a run's end for its
last bytes; all else is written beside it. That takes its part of the processor and the disk, so that
the speed of steps beside a write is compared with that of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

from packtrain.rundir import Event, RunDir, history


@dataclass(frozen=True)
class Cost:
    training: float
    """Seconds of all steps."""
    blocked: list[float]
    """Seconds that training waited for each checkpoint."""
    beside: list[float]
    """Tokens a second of the steps during which one was written."""
    alone: list[float]
    """Of the others."""

    @property
    def share(self) -> float:
        return sum(self.blocked) / (self.training + sum(self.blocked))

    def share_at(self, every: float) -> float:
        """Were there a checkpoint every so many seconds."""
        return median(self.blocked) / every


def cost(events: Sequence[Event]) -> Cost:
    """Of a run's :func:`~packtrain.rundir.history`."""
    written = [event for event in events if event.kind == "checkpoint" and not event.fields["mirrored"]]
    writing = [(_seconds(event) - event.fields["seconds"], _seconds(event)) for event in written]
    training, beside, alone = 0.0, list[float](), list[float]()
    for before, step in pairwise(event for event in events if event.kind in ("step", "eval", "start")):
        if step.kind != "step":
            continue
        speed = float(step.fields["tokens_per_second"])
        training += step.fields["tokens"] / speed
        if before.kind != "step":
            continue  # the first one warms up
        overlaps = any(start < _seconds(step) and _seconds(before) < end for start, end in writing)
        (beside if overlaps else alone).append(speed)
    return Cost(training, [event.fields["blocked"] for event in written], beside, alone)


def _seconds(event: Event) -> float:
    return datetime.fromisoformat(event.time).timestamp()


def main(run_dir: Path) -> None:
    found = cost(history(RunDir(run_dir).events_file))
    if not found.blocked:
        sys.exit(f"{run_dir}: no checkpoints")
    print(
        f"{len(found.blocked)} checkpoints in {found.training:.1f} s of steps: training waited "
        f"{sum(found.blocked):.3f} s, {found.share:.2%}; at most {max(found.blocked):.3f} s at once"
    )
    print(f"one every 5 minutes, the default: {found.share_at(300.0):.4%}")
    if found.beside and found.alone:
        print(
            f"tokens a second, median: {median(found.beside):,.0f} in {len(found.beside)} steps beside a "
            f"write, {median(found.alone):,.0f} in the {len(found.alone)} others"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
