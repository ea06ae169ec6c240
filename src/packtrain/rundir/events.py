"""The events of a run: lines that are appended, and read one by one.

Who wants to know what became of a run reads :mod:`packtrain.rundir.history`, which knows what a resume
took back. Row contents are never in an event.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from packtrain.errors import StorageError

EVENTS_VERSION = 1
Kind = Literal[
    "start", "data", "plan", "step", "eval", "checkpoint", "answers", "published", "preempted", "end",
    "warning",
]  # fmt: skip
KINDS: frozenset[str] = frozenset(get_args(Kind))
#: Kinds that tell of training progress, and so are superseded when a resume begins before them.
PROGRESS: frozenset[str] = frozenset({"step", "eval", "checkpoint"})


@dataclass(frozen=True)
class Event:
    """One line of ``events.jsonl``. ``step`` is the number of completed optimizer steps."""

    kind: str
    step: int
    attempt: int
    seq: int
    time: str
    version: int = EVENTS_VERSION
    fields: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        head = {
            "version": self.version,
            "time": self.time,
            "attempt": self.attempt,
            "seq": self.seq,
            "kind": self.kind,
            "step": self.step,
        }
        return json.dumps(head | self.fields, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Event:
        data = json.loads(line)
        head = {key: data.pop(key) for key in ("kind", "step", "attempt", "seq", "time", "version")}
        return cls(**head, fields=data)


def timestamp(now: float | None = None) -> str:
    """UTC in ISO 8601 with milliseconds, such as ``2026-11-24T05:09:42.123Z``."""
    moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventWriter:
    """Appends the events of one attempt. One writer a run (the lock sees to that).

    A torn last line, which a killed attempt can leave, is cut off when the file is opened.
    """

    def __init__(self, path: Path, attempt: int) -> None:
        self.path, self.attempt, self.seq = path, attempt, 0
        self._mutex = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def write(self, kind: Kind, step: int, **fields: Any) -> Event:
        """Append one event; it is in the file, whole, when this returns. In any thread."""
        with self._mutex:
            return self._write(kind, step, fields)

    def _write(self, kind: Kind, step: int, fields: dict[str, Any]) -> Event:
        assert kind in KINDS, kind
        event = Event(kind, step, self.attempt, self.seq, timestamp(), fields=_finite(fields))
        data = (event.to_line() + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(data)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error
        if written != len(data):
            with contextlib.suppress(OSError):  # the next line must not begin in the middle of this one
                os.ftruncate(self._file.fileno(), before)
            raise StorageError(
                f"cannot write {self.path}: {written} of {len(data)} bytes written, is the disk full?"
            )
        self.seq += 1
        return event

    def sync(self) -> None:
        """Have all events so far survive a power cut; in any thread."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity: write them as strings, which float() reads back."""
    return {
        key: str(value) if isinstance(value, float) and value - value != 0.0 else value
        for key, value in fields.items()
    }


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end != len(data):
            file.truncate(end)


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Events in ``lines``; lines that are torn and kinds that are unknown are passed over."""
    for line in lines:
        try:
            event = Event.from_line(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if event.kind in KINDS:
            yield event


def whole_lines(data: bytes) -> dict[tuple[int, int], bytes]:
    """The lines of an events file that are whole, with their ends, by attempt and seq; the first of each."""
    lines: dict[tuple[int, int], bytes] = {}
    for line in data.splitlines(keepends=True):
        try:
            event = Event.from_line(line.decode())
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if line.endswith(b"\n"):
            lines.setdefault((event.attempt, event.seq), line)
    return lines


def segment_name(first: Event) -> str:
    """Name of the immutable object that holds the events from ``first`` on, in a bucket.

    Sorts in the order of the events: by attempt, then by seq.
    """
    return f"events/{first.attempt:06d}-{first.seq:010d}.jsonl"
