"""The events of a run in its bucket: immutable segments, each named by its first event.

A thread sends the new whole lines every some seconds; training never waits for it. Sending is
idempotent: a segment whose answer was lost is recognised by its content, and what an earlier attempt
could not send any more goes with the next one's. The many segments of a long attempt are put together
when the next one begins.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from packtrain.errors import ConflictError, PacktrainError, StorageError, UnavailableError
from packtrain.rundir import Event, RunDir, segment_name, whole_lines, write_atomically
from packtrain.storage import ObjectInfo, PreconditionError, Storage
from packtrain.train.background import Outage, Worker

ROOT = "events/"
SEGMENT = re.compile(r"events/(\d{6,})-(\d{10,})\.jsonl")
#: Bytes of a segment at most (more than one line): it goes in one request.
LARGEST = 4 << 20
_READERS = 16
#: More segments than this are put together when an attempt begins.
MANY = 256
#: Listings of segments, some of which are gone when they are read.
_TRIES = 5

Key = tuple[int, int]
"""Attempt and seq of an event."""
Segment = tuple[Key, ObjectInfo]
"""The first event of a segment, and its object."""


class EventMirror:
    """Sends ``events_file`` to the run's place in a bucket, from where it was sent before."""

    def __init__(
        self, events_file: Path, remote: Storage, *, every: float = 10.0, retry_delay: float = 5.0
    ) -> None:
        self._file, self._remote = events_file, remote
        self._offset = 0
        self._sent: dict[int, int] | None = None
        self._mutex = threading.Lock()
        self._outage = Outage(
            f"events are not copied to {remote.uri}",
            "training goes on, and it is tried again",
            f"events are copied to {remote.uri} again",
        )
        self._worker = Worker("events", self.push, self._outage, every=every, first_delay=retry_delay)

    def push(self) -> None:
        """Send what is in the file now; in any thread. A line that is torn is left for the next time.

        Errors: those of :class:`Storage`, and :class:`ConflictError` where another process has sent
        other events under the same numbers.
        """
        with self._mutex:
            if self._sent is None:
                with suppress(PacktrainError):  # many small ones only cost time
                    compact(self._remote)
                self._sent = _already_there(self._remote)
            data = self._read()
            data = data[: data.rfind(b"\n") + 1]
            batch: list[tuple[Key, bytes]] = []
            for key, line in whole_lines(data).items():
                if key[1] <= self._sent.get(key[0], -1):
                    continue
                full = sum(len(one) for _, one in batch) + len(line) > LARGEST
                if batch and (full or batch[0][0][0] != key[0]):
                    self._send(batch, self._sent)
                    batch = []
                batch.append((key, line))
            if batch:
                self._send(batch, self._sent)
            self._offset += len(data)

    def poll(self) -> list[str]:
        """What is to be told of the bucket. Errors: :class:`ConflictError`, as of :meth:`push`."""
        self._worker.check()
        return self._outage.take()

    def flush(self, timeout: float) -> bool:
        """Send all that is there within ``timeout`` seconds; whether that was done."""
        return self._worker.wait(timeout)

    def close(self, timeout: float) -> bool:
        """:meth:`flush`, and end the thread."""
        done = self.flush(timeout)
        self._worker.stop(0.0)
        return done

    def _read(self) -> bytes:
        try:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StorageError(f"cannot read {self._file}: {error.strerror or error}") from error

    def _send(self, batch: list[tuple[Key, bytes]], sent: dict[int, int]) -> None:
        while batch:
            (attempt, _), first = batch[0]
            name = segment_name(Event.from_line(first.decode()))
            try:
                self._remote.write(name, b"".join(line for _, line in batch), if_generation=0)
                there = batch
            except PreconditionError as error:
                # Sent before, perhaps by a request whose answer was lost; there may be more by now.
                there = list(whole_lines(self._remote.read(name)).items())
                if not there or there != batch[: len(there)]:
                    raise ConflictError(
                        f"{self._remote.uri}/{name}: holds the events of another process",
                        hint="another process goes on with this run",
                    ) from error
            sent[attempt] = there[-1][0][1]
            batch = batch[len(there) :]


def restore_events(run_dir: RunDir, remote: Storage) -> None:
    """Bring the events that are only in the bucket to ``run_dir``, before an attempt opens the file.

    Both may have some that the other lacks: each is kept once, in order. Errors: those of
    :class:`Storage`, and :class:`StorageError` for a disk that is full.
    """
    path = run_dir.events_file
    try:
        here = whole_lines(path.read_bytes())
    except FileNotFoundError:
        here = {}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    merged = here | _missing(remote, here)
    if merged.keys() != here.keys():
        write_atomically(path, b"".join(merged[key] for key in sorted(merged)))


def _missing(remote: Storage, here: dict[Key, bytes]) -> dict[Key, bytes]:
    """The lines in the bucket that are not ``here``."""
    for _ in range(_TRIES):
        wanted = _wanted(_segments(remote), here)
        with ThreadPoolExecutor(_READERS) as readers, suppress(FileNotFoundError):
            found = list(readers.map(remote.read, [info.name for info in wanted]))
            break
        # Its writer has put some together meanwhile.
    else:
        raise UnavailableError(f"{remote.uri}/{ROOT}: its segments change faster than they can be read")
    missing: dict[Key, bytes] = {}
    for data in found:
        for key, line in whole_lines(data).items():
            if key not in here:
                missing.setdefault(key, line)
    return missing


def _segments(remote: Storage) -> list[Segment]:
    """All of them, in order."""
    matches = ((SEGMENT.fullmatch(info.name), info) for info in remote.list(ROOT))
    return sorted(
        (((int(match[1]), int(match[2])), info) for match, info in matches if match), key=lambda one: one[0]
    )


def _wanted(segments: list[Segment], here: dict[Key, bytes]) -> list[ObjectInfo]:
    """The segments that hold an event which is not ``here``: whose size is not that of our lines."""
    return [info for first, info in segments if not _is_here(first, info.size, here)]


def _is_here(first: Key, size: int, here: dict[Key, bytes]) -> bool:
    attempt, seq = first
    while size > 0 and (line := here.get((attempt, seq))) is not None:
        size, seq = size - len(line), seq + 1
    return size == 0


def _already_there(remote: Storage) -> dict[int, int]:
    """The last seq of each attempt in the bucket."""
    last = {attempt: info.name for (attempt, _), info in _segments(remote)}
    sent = {}
    for attempt, name in last.items():
        lines = whole_lines(remote.read(name))
        if lines:
            sent[attempt] = max(lines)[1]
    return sent


def compact(remote: Storage) -> None:
    """Put the many small segments of earlier attempts together: a day of training leaves thousands.

    The first of a group gets the content of all, then the others go: who reads meanwhile finds every
    line, some twice. Only for the one that writes the run, before it has sent anything. Errors: those
    of :class:`Storage`; what was done until then stays.
    """
    segments = _segments(remote)
    if len(segments) <= MANY:
        return
    with ThreadPoolExecutor(_READERS) as threads:
        for group in _groups(segments):
            data = b"".join(threads.map(remote.read, [info.name for info in group]))
            first, *rest = group
            remote.write(first.name, data, if_generation=first.generation)
            list(threads.map(lambda info: remote.delete(info.name, if_generation=info.generation), rest))


def _groups(segments: list[Segment]) -> list[list[ObjectInfo]]:
    """Neighbours of one attempt that fit into one segment, where there are several."""
    groups: list[list[ObjectInfo]] = []
    attempt_before, size = -1, 0
    for (attempt, _), info in segments:
        if attempt != attempt_before or size + info.size > LARGEST:
            groups.append([])
            attempt_before, size = attempt, 0
        groups[-1].append(info)
        size += info.size
    return [group for group in groups if len(group) > 1]
