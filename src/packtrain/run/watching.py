"""Watching a run: on a terminal, as plain lines elsewhere, or as a page in a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.run.watch_source import Watched
from packtrain.run.watch_view import Standing, View

#: Seconds between two looks, at a folder and at a bucket.
NEAR, FAR = 1.0, 10.0
Ask = Callable[[RunConfig], Standing]
"""How a run stands in its cluster."""
#: Events that are told of before the watching began.
FIRST = 10


@contextmanager
def watched(run: str, standing: Ask) -> Iterator[tuple[Watched, float]]:
    """Errors: as of :class:`Watched`. With the seconds from one look to the next."""
    found = Watched(run, standing)
    try:
        yield found, FAR if found.far else NEAR
    finally:
        found.close()


def on_terminal(run: str, standing: Ask) -> None:
    """Until q or Ctrl-C. Errors: :class:`ConfigError` without textual."""
    try:
        from packtrain.run.watch_app import WatchApp
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise ConfigError(
            "the live view needs textual, which is an extra", hint="pip install 'packtrain[watch]'"
        ) from error
    with watched(run, standing) as (found, every):
        failed = WatchApp(found, every).run()
    if failed is not None:
        raise failed


def as_lines(
    run: str, standing: Ask, say: Callable[[str], None], told: Callable[[View | None, View], list[str]]
) -> None:
    """What ``told`` makes of each change, until the run has ended, or Ctrl-C."""
    with watched(run, standing) as (found, every):
        before: View | None = None
        while True:
            view = found.look()
            for line in told(before, view):
                say(line)
            if view.over:
                return
            before = view
            time.sleep(every)


def changes(before: View | None, now: View) -> list[str]:
    """What is to be said of ``now``, after ``before`` was."""
    if before is not None and before.run_id not in ("", now.run_id):
        before = None  # another run has begun there
    if before is None:
        lines = [f"{now.name}  {now.place}", *(line for _, line in now.events[-FIRST:])]
    else:
        last = before.events[-1][0] if before.events else (0, -1)
        lines = [line for key, line in now.events if key > last]
    if now.step and (before is None or now.step != before.step):
        lines.append("  ".join(now.figures))
    for what, line in (("cluster", now.cluster), ("note", now.note), ("status", now.status)):
        if line and (before is None or line != getattr(before, what)):
            lines.append(f"not seen: {line}" if what == "note" else line)
    return lines


def as_json(before: View | None, now: View) -> list[str]:
    """One object for all that has changed."""
    if now == before:
        return []
    told = {
        "name": now.name,
        "run_id": now.run_id,
        "place": now.place,
        "status": now.status,
        "ended": now.over,
        "step": now.step,
        "steps": now.steps,
        **now.numbers,
        "cluster": now.cluster,
        "not_seen": now.note,
    }
    return [json.dumps(told, ensure_ascii=False)]


def as_page(run: str, standing: Ask, port: int, say: Callable[[str], None]) -> None:
    """On loopback, until Ctrl-C. Errors: :class:`UsageError` for a port that is taken."""
    from packtrain.run.watch_page import PageServer

    with watched(run, standing) as (found, every):
        server = PageServer(found, port)
        say(server.url)
        server.keep_looking(every)
