"""A run at trackio: on this disk, or in a Space of the Hugging Face hub where ``TRACKIO_SPACE_ID`` says so.

It finds a run again by its name, which holds our id.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from packtrain.report.trackers.tracker import PROJECT, About, Ending, Row


class TrackioRun:
    def __init__(self, about: About) -> None:
        import trackio

        self._project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        self._last = 0
        with _unheard():
            self._run = trackio.init(
                project=self._project,
                name=f"{about.name}-{about.run_id.lower()}",
                config=dict(about.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    @property
    def link(self) -> str | None:
        space = os.environ.get("TRACKIO_SPACE_ID")
        if space and "/" in space:
            return f"https://huggingface.co/spaces/{space}"
        return f"trackio show --project {self._project}" if not space else None

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._last = max(self._last, row.step)
            self._run.log(dict(row.values), step=row.step)

    def finish(self, ending: Ending) -> None:
        if ending.metrics:
            self._run.log(dict(ending.metrics), step=self._last)
        with _unheard():
            self._run.finish()


class _OneUnheard:
    """An output of the process, to which one thread's words do not come."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._whose = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._whose:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _unheard() -> Iterator[None]:
    """What it prints would stand in the middle of what the command prints, which may be JSON."""
    import sys

    with redirect_stdout(_OneUnheard(sys.stdout)):
        yield


def begin(about: About) -> TrackioRun:
    return TrackioRun(about)
