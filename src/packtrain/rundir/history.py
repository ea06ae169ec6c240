"""A run's events as one story, in memory or as a stream: nobody else parses the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from packtrain.errors import BY_EXIT_CODE, PreemptedError, UnavailableError
from packtrain.rundir.events import PROGRESS, Event, EventWriter, parse_events

#: Bytes of a long file that are parsed to know how a run stands, at its begin and at its end, and those that
#: are searched for a checkpoint before the latter.
HEAD, TAIL, SEARCHED = 64 << 10, 1 << 20, 32 << 20
_CHECKPOINT = b'"kind": "checkpoint"'


def history(events: Path | Iterable[Event]) -> list[Event]:
    """A run's events as one story: what a resume superseded is left out.

    A ``start`` with ``resumed_from: N`` takes back all progress after step N; one without, all of it.
    Of two evaluations after one step the later one is told.
    """
    if isinstance(events, Path):
        return list(stream(events))
    known = list(events)
    return list(_told(enumerate(known), enumerate(known)))


def stream(path: Path, size: int | None = None) -> Iterator[Event]:
    """:func:`history` of a file, one event after another: a million of them take no memory.

    The file is read twice, and what is appended meanwhile is left for the next time. ``size``: so many of
    its bytes; all that are there unless said.
    """
    try:
        size = path.stat().st_size if size is None else size
    except FileNotFoundError:
        return
    # What takes something back is rare: a line that cannot be one is not parsed for that.
    marked = ((at, line) for at, line in _lines(path, size) if '"start"' in line or '"eval"' in line)
    yield from _told(_numbered(marked), _numbered(_lines(path, size)))


def ends_of(path: Path, head: int = HEAD, tail: int = TAIL) -> list[Event]:
    """How a run stands, without its whole file being read: the first starts, the last checkpoint, and the
    last events, as :func:`history` would tell them. All events of a file that is small. ``head``, ``tail``:
    bytes."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= head + tail:
                return history(path)
            file.seek(0)
            first = [line for line in file.read(head).splitlines()[:-1] if b'"kind": "start"' in line]
            file.seek(size - tail)
            last = file.read(tail).split(b"\n")[1:]
            saved = [] if any(_CHECKPOINT in line for line in last) else _saved(file, size - tail)
    except FileNotFoundError:
        return []
    found = parse_events(line.decode(errors="replace") for line in (*first, *saved, *last))
    return history(sorted(found, key=lambda event: (event.attempt, event.seq)))


def _saved(file: BinaryIO, before: int) -> list[bytes]:
    """The line of the last checkpoint, looked for in so much as can be searched in a moment."""
    least = max(0, before - SEARCHED)
    file.seek(least)
    data = file.read(before - least)
    at = data.rfind(_CHECKPOINT)
    if at < 0:
        return []
    return [data[data.rfind(b"\n", 0, at) + 1 : data.find(b"\n", at)]]


def _lines(path: Path, size: int) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            size -= len(line)
            if size < 0:
                return
            yield number, line.decode(errors="replace")


def _numbered(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Event]]:
    return ((at, event) for at, line in lines for event in parse_events((line,)))


def _told(first: Iterable[tuple[int, Event]], again: Iterable[tuple[int, Event]]) -> Iterator[Event]:
    """Of the same numbered events twice: those that no later start or evaluation takes back."""
    starts: list[tuple[int, int]] = []
    evaluated: dict[int, int] = {}
    for at, event in first:
        if event.kind == "start":
            starts.append((at, _goes_on_after(event)))
        elif event.kind == "eval":
            # An evaluation is after its step and before the checkpoint that knows of it: a run that was
            # cut off in between evaluates again.
            evaluated[event.step] = at
    # From the end: the step after which the starts that are still to come take everything back.
    limits: list[tuple[int, float]] = []
    limit = math.inf
    for at, resumed_from in reversed(starts):
        limit = min(limit, resumed_from)
        limits.append((at, limit))
    for at, event in again:
        while limits and limits[-1][0] <= at:
            limits.pop()
        superseded = event.kind in PROGRESS and bool(limits) and event.step > limits[-1][1]
        if not superseded and (event.kind != "eval" or evaluated.get(event.step, at) <= at):
            yield event


def _goes_on_after(start: Event) -> int:
    """The step after which a ``start`` takes all progress back."""
    return start.fields.get("resumed_from") or -1


class SoFar:
    """What has to be known of a story that grows, to see that an event takes some of it back.

    For who reads on where he has stopped: until then what comes can be added to what is known; then
    :func:`history` tells another story than before.
    """

    def __init__(self) -> None:
        self._furthest = -1
        self._evaluated: set[int] = set()

    def add(self, event: Event) -> None:
        if event.kind in PROGRESS:
            self._furthest = max(self._furthest, event.step)
        if event.kind == "eval":
            self._evaluated.add(event.step)

    def takes_back(self, event: Event) -> bool:
        if event.kind == "start":
            return self._furthest > _goes_on_after(event)
        return event.kind == "eval" and event.step in self._evaluated


def last_attempt(path: Path) -> int:
    """The number of the newest attempt in an events file, 0 where there is none."""
    return max((event.attempt for event in history(path)), default=0)


def tell_end(path: Path, exit_code: int, message: str) -> None:
    """Write the ``end`` of the newest attempt, unless it has told of its end itself.

    For who outlives a process that was killed, and knows why. That a peer was lost is no cause: it is told
    what became of that one.
    """
    events = history(path)
    if not events:
        return
    last = events[-1]
    echo = last.fields.get("exit_code") == UnavailableError.exit_code != exit_code
    if last.kind == "end" and not echo:
        return
    if last.kind == "preempted" and BY_EXIT_CODE.get(exit_code) is PreemptedError:
        return
    with EventWriter(path, last.attempt) as writer:
        writer.seq = last.seq + 1
        writer.write("end", last.step, outcome="failed", exit_code=exit_code, message=message)
