"""The last lines of every rank, kept in the run's bucket: they are there when the pod is gone.

What the first rank and the supervisor print goes through a pipe, so that it can be kept as well as
shown. A thread writes what is new every half a minute, and once more at the end; the bucket being away
ends nothing. Each attempt of each node has a folder of its own: ``logs/TIME-node-N/rank-R.log``.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import struct
import sys
import termios
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from packtrain.storage import Storage
from packtrain.train.background import Outage, Worker

ROOT = "logs/"
#: Bytes of the tail of the first rank, which passes through, and of each other.
FIRST_TAIL, OTHER_TAIL = 1 << 20, 64 << 10


class Tail:
    """The last bytes of what was said; it begins with a whole line."""

    def __init__(self, limit: int) -> None:
        self._limit, self._data, self._cut = limit, bytearray(), False
        self._mutex = threading.Lock()
        self.total = 0
        """Bytes that ever came."""

    def add(self, data: bytes) -> None:
        with self._mutex:
            self._data += data
            self.total += len(data)
            if len(self._data) > 2 * self._limit:
                self._shorten()

    def get(self) -> bytes:
        with self._mutex:
            if len(self._data) > self._limit:
                self._shorten()
            head = b"(earlier lines are left out)\n" if self._cut else b""
            return head + bytes(self._data)

    def _shorten(self) -> None:
        del self._data[: len(self._data) - self._limit]
        del self._data[: self._data.find(b"\n") + 1]
        self._cut = True


class Tee:
    """While it is entered, what this process and its children print goes to ``tail``, too."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    def __enter__(self) -> Tee:
        _flush()
        self._kept = {number: os.dup(number) for number in (1, 2)}
        self._pipes = {}
        for number in self._kept:
            reader, writer = os.pipe()
            os.dup2(writer, number)
            os.close(writer)
            self._pipes[reader] = self._kept[number]
        self._thread = threading.Thread(target=self._copy, name="packtrain-tee", daemon=True)
        self._thread.start()
        return self

    def settle(self, timeout: float = 2.0) -> None:
        """Wait until all that was printed so far has gone through."""
        _flush()
        until = time.monotonic() + timeout
        while any(map(_waiting, self._pipes)) and time.monotonic() < until:
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        _flush()
        for number, kept in self._kept.items():
            os.dup2(kept, number)
        # The pipes end when their last writer is gone: an orphan may hold them for ever.
        self._thread.join(2.0)

    def _copy(self) -> None:
        with selectors.DefaultSelector() as selector:
            for reader in self._pipes:
                selector.register(reader, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fd)
                        os.close(key.fd)
                        continue
                    self._tail.add(data)
                    with suppress(OSError):  # whoever read the log has gone
                        _write_all(self._pipes[key.fd], data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _waiting(pipe: int) -> int:
    try:
        answer = fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0))
    except OSError:
        return 0  # it has ended
    return int(struct.unpack("i", answer)[0])


def _flush() -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()


@dataclass(frozen=True)
class RankLog:
    """A rank's last lines as they lie in the bucket."""

    attempt: str
    """The time and the node, such as ``20261124T050942Z-node-0``; sorts by time."""
    rank: int
    text: str


def read_logs(run: Storage) -> list[RankLog]:
    """All that lie there, by attempt and rank. ``run``: at the run's place. Errors: those of Storage."""
    logs = []
    for info in run.list(ROOT):
        attempt, _, name = info.name.removeprefix(ROOT).partition("/")
        number = name.removeprefix("rank-").removesuffix(".log")
        if number.isdigit():
            with suppress(FileNotFoundError):
                text = run.read(info.name).decode(errors="replace")
                logs.append(RankLog(attempt, int(number), text))
    return sorted(logs, key=lambda log: (log.attempt, log.rank))


class LogMirror:
    """Sends the tails of one node's ranks. ``secrets``: words that are never written."""

    def __init__(
        self, remote: Storage, *, node: int, ranks: int, secrets: tuple[str, ...] = (), every: float = 30.0
    ) -> None:
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self.folder = f"{ROOT}{started}-node-{node}/"
        self.first = Tail(FIRST_TAIL)
        self._tails = {node * ranks: self.first}
        self._tails |= {node * ranks + local: Tail(OTHER_TAIL) for local in range(1, ranks)}
        self._first_rank = node * ranks
        self._remote = remote
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._sent: dict[int, int] = {}
        self._outage = Outage(
            f"logs are not copied to {remote.uri}",
            "it is tried again",
            f"logs are copied to {remote.uri} again",
        )
        self._worker = Worker("logs", self.push, self._outage, every=every)

    def heard(self, local_rank: int, data: bytes) -> None:
        """What a rank other than the node's first has printed."""
        self._tails[self._first_rank + local_rank].add(data)

    def push(self) -> None:
        """Write the tails that have grown. Errors: those of :class:`Storage`."""
        for rank, tail in self._tails.items():
            total = tail.total
            if total != self._sent.get(rank, 0):
                self._remote.write(f"{self.folder}rank-{rank}.log", self._clean(tail.get()))
                self._sent[rank] = total

    def _clean(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, b"[hidden]")
        return data

    def close(self, timeout: float) -> bool:
        """Once more, within ``timeout`` seconds; whether all that was said is there."""
        done = self._worker.wait(timeout)
        self._worker.stop(0.0)
        return done
