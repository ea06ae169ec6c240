"""A checkpoint that several ranks of a machine write, each its part, while training goes on.

All write into one folder. What each has written it tells the main rank over the store through which the
processes found each other: their threads may use it while training talks over its own connections. The
main rank commits when it has heard of every part; one that failed, or is not told of, fails the checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from packtrain.errors import StorageError
from packtrain.train.checkpoint_files import UNWRITTEN, Facts, temporary_folder, write_part
from packtrain.train.checkpoint_state import Snapshot

#: Seconds until a part that nobody tells of fails the checkpoint.
LIMIT = 600.0
_POLL = 0.05


class Exchange(Protocol):
    """Short texts by name, from any rank to any other, while training goes on."""

    def tell(self, name: str, text: str) -> None: ...

    def ask(self, name: str) -> str | None:
        """The text, or None while nobody has told it; it is forgotten with that."""
        ...


class StoreExchange:
    """Over the store of the process group. Errors: :class:`StorageError` where it has gone."""

    def tell(self, name: str, text: str) -> None:
        from torch import distributed

        try:
            distributed.distributed_c10d._get_default_store().set(name, text)
        except RuntimeError as error:
            raise StorageError(f"the main rank cannot be told of a checkpoint: {error}") from error

    def ask(self, name: str) -> str | None:
        from torch import distributed

        store = distributed.distributed_c10d._get_default_store()
        try:
            if not store.check([name]):
                return None
            text: bytes = store.get(name)
            store.delete_key(name)
        except RuntimeError as error:
            raise StorageError(f"the other ranks cannot be asked for a checkpoint: {error}") from error
        return text.decode()


def _name(save: int, index: int) -> str:
    return f"packtrain/checkpoint/{save}/{index}"


def collect(exchange: Exchange, save: int, count: int, give_up: Callable[[], bool]) -> Facts:
    """What the other parts' files are, when all are written. Errors: :class:`StorageError`."""
    facts: Facts = {}
    missing = set(range(1, count))
    ends = time.monotonic() + LIMIT
    while missing:
        for index in sorted(missing):
            text = exchange.ask(_name(save, index))
            if text is None:
                continue
            told = json.loads(text)
            if "error" in told:
                raise StorageError(f"part {index + 1} of {count}: {told['error']}")
            facts |= {name: (int(size), str(digest)) for name, (size, digest) in told["files"].items()}
            missing.discard(index)
        if missing and (give_up() or time.monotonic() > ends):
            raise StorageError(f"part {min(missing) + 1} of {count} was not written")
        if missing:
            time.sleep(_POLL)
    return facts


class PartWriter:
    """Of a rank that writes a part and is not the main one. Called as often as the main one's store."""

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        self._folder, self._exchange = folder, exchange
        self._executor = ThreadPoolExecutor(1, "packtrain-checkpoint-part")
        self._writing: Future[None] | None = None
        self._saves = 0

    @property
    def ready(self) -> bool:
        return self._writing is None or self._writing.done()

    def save(self, snapshot: Snapshot, *, wait: bool) -> None:
        """Begin to write; ``wait``: until it is on the disk, and raise :class:`StorageError` where not.

        Without it the main rank is told of a failure, and warns.
        """
        self._collect()
        self._saves += 1
        self._writing = self._executor.submit(self._write, snapshot, self._saves)
        if wait:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Wait for what is being written."""
        self._collect()
        self._executor.shutdown()

    def _collect(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.exception()

    def _write(self, snapshot: Snapshot, save: int) -> None:
        assert snapshot.part.index
        name = _name(save, snapshot.part.index)
        try:
            facts = write_part(temporary_folder(self._folder, snapshot, save), snapshot)
        except UNWRITTEN as error:
            self._exchange.tell(name, json.dumps({"error": str(error)}))
            raise StorageError(f"cannot write a part of a checkpoint: {error}") from error
        self._exchange.tell(name, json.dumps({"files": facts}))
