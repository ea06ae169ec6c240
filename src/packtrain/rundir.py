"""What a run's folder holds, and its events: the one truth about a run.

Events are appended by :class:`EventWriter` and read by :func:`history`; nobody else parses the
file. Progress bar, report and live view are readers. Row contents are never in an event.
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

from packtrain.errors import BY_EXIT_CODE, ConfigError, PreemptedError, StorageError, UnavailableError

EVENTS_VERSION = 1
Kind = Literal["start", "step", "eval", "checkpoint", "preempted", "published", "end", "warning", "plan"]
KINDS: frozenset[str] = frozenset(get_args(Kind))
#: Kinds that tell of training progress, and so are superseded when a resume begins before them.
PROGRESS: frozenset[str] = frozenset({"step", "eval", "checkpoint"})

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_run_id(now: float | None = None, entropy: bytes | None = None) -> str:
    """A ULID: 48 bits of milliseconds since 1970, 80 random bits, in Crockford's base 32.

    Sorts by time. https://github.com/ulid/spec
    """
    milliseconds = int((time.time() if now is None else now) * 1000)
    value = (milliseconds << 80) | int.from_bytes(entropy or os.urandom(10), "big")
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either the old bytes or all of the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Make a file's content, or the renames in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunIdentity:
    """Who a run is: made by whoever first starts it, never changed."""

    name: str
    run_id: str
    config_hash: str
    config: dict[str, Any]
    """The settings under the hash, so that a difference can be named."""
    created: str

    def to_json(self) -> bytes:
        return (json.dumps(self.__dict__, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> RunIdentity:
        return cls(**json.loads(data))


@dataclass(frozen=True)
class RunDir:
    """The places in a run's folder (default ``runs/<name>``)."""

    path: Path

    @property
    def identity_file(self) -> Path:
        return self.path / "run.json"

    @property
    def config_file(self) -> Path:
        """The run file, resolved: pinned revisions, what `auto` became."""
        return self.path / "config.yaml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """``step-N/`` folders; complete only with their commit marker."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def receipt_file(self) -> Path:
        return self.path / "receipt.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    def identity(self) -> RunIdentity | None:
        """Who owns this folder, or None for a folder that holds no run yet."""
        try:
            return RunIdentity.from_json(self.identity_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.identity_file}: {error.strerror or error}") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.identity_file}: is not a run's identity ({error})",
                hint="choose another folder with --run-dir, or remove this one",
            ) from error


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


def history(events: Path | Iterable[Event]) -> list[Event]:
    """A run's events as one story: what a resume superseded is left out.

    A ``start`` with ``resumed_from: N`` takes back all progress after step N; one without, all of it.
    Of two evaluations after one step the later one is told.
    """
    if isinstance(events, Path):
        if not events.exists():
            return []
        with events.open(encoding="utf-8", errors="replace") as file:
            return history(list(parse_events(file)))
    story: list[Event] = []
    for event in events:
        if event.kind == "start":
            resumed_from = event.fields.get("resumed_from") or -1
            story = [past for past in story if past.kind not in PROGRESS or past.step <= resumed_from]
        elif event.kind == "eval":
            # An evaluation is after its step and before the checkpoint that knows of it: a run that was
            # cut off in between evaluates again.
            story = [past for past in story if (past.kind, past.step) != ("eval", event.step)]
        story.append(event)
    return story


def last_attempt(path: Path) -> int:
    """The number of the newest attempt in an events file, 0 where there is none."""
    return max((event.attempt for event in history(path)), default=0)


def segment_name(first: Event) -> str:
    """Name of the immutable object that holds the events from ``first`` on, in a bucket.

    Sorts in the order of the events: by attempt, then by seq.
    """
    return f"events/{first.attempt:06d}-{first.seq:010d}.jsonl"


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
