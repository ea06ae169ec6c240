"""``report.html`` where a run or a user wants it; a page that cannot be written never fails a run."""

from __future__ import annotations

from pathlib import Path

from packtrain.report.facts import read_facts
from packtrain.rundir import RunDir, write_atomically

#: In a run's folder, and beside what it publishes.
REPORT = "report.html"
#: Seconds that a million bytes of events take at most: what a stop has left decides.
SECONDS_PER_MB = 0.25


def write_report(
    run_dir: RunDir, to: Path | None = None, *, spent_usd: float | None = None, here: bool = False
) -> Path:
    """Errors: :class:`ConfigError` for a folder without a run, :class:`StorageError`."""
    from packtrain.report.page import render_run

    path = to or run_dir.report_file
    facts = read_facts(run_dir, spent_usd=spent_usd, here=here)
    write_atomically(path, render_run(facts).encode())
    return path


def seconds_for(run_dir: RunDir) -> float:
    """About how long :func:`write_report` takes at most."""
    try:
        return 1.0 + run_dir.events_file.stat().st_size / 1e6 * SECONDS_PER_MB
    except OSError:
        return 1.0
