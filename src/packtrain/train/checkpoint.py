"""The checkpoints of a run: written beside training, copied to the bucket, and the newest found again.

One thread writes to the disk, another copies complete checkpoints to the bucket; training only
waits where it says so. A disk that is full or a bucket that is away ends nothing as long as training
can go on: it is said once, and tried again. Old checkpoints go only after a new one is complete.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packtrain.errors import StorageError
from packtrain.storage import Storage
from packtrain.train.background import Outage, Worker
from packtrain.train.checkpoint_files import (
    COMMIT,
    Commit,
    Facts,
    commits,
    damage,
    make_room,
    prune,
    sweep,
    write,
)
from packtrain.train.checkpoint_parts import Exchange, PartWriter, StoreExchange, collect
from packtrain.train.checkpoint_remote import GivenUp, RemoteCheckpoints, prune_quietly
from packtrain.train.checkpoint_state import (
    FILES,
    Part,
    Snapshot,
    TrainingState,
    part_of,
    read,
    read_state,
    restore,
    take_snapshot,
)

__all__ = [
    "COMMIT",
    "FILES",
    "CheckpointStore",
    "Part",
    "PartWriter",
    "Saved",
    "Snapshot",
    "StoreExchange",
    "TrainingState",
    "part_of",
    "read",
    "read_state",
    "restore",
    "take_snapshot",
]


#: That :meth:`CheckpointStore.close` waits for other ranks' parts.
CLOSING_SECONDS = 5.0


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete: on the disk, or (``mirrored``) in the bucket too."""

    step: int
    seconds: float
    """That writing, or copying, took beside training."""
    bytes: int
    mirrored: bool


class CheckpointStore:
    """For one attempt, in its process that writes. All methods are called by the training thread.

    ``token()`` gives the run's fencing token and may raise ConflictError where its lock is lost.
    ``sync_events`` has the events so far on the disk, and ``mirror_events`` in the bucket, when it
    returns; they are called before a checkpoint counts there, in another thread, so that no
    checkpoint is newer than the story of how it came about. ``exchange``: where other ranks tell of
    the parts that they write (:class:`PartWriter`). ``warn`` is called only by
    :meth:`newest`, :meth:`poll` and :meth:`close`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        attempt: int,
        warn: Callable[[str], None],
        token: Callable[[], int] = lambda: 0,
        remote: Storage | None = None,
        exchange: Exchange | None = None,
        sync_events: Callable[[], None] = lambda: None,
        mirror_events: Callable[[], None] = lambda: None,
        retry_delay: float = 5.0,
    ) -> None:
        self.folder, self.keep, self.attempt = folder, keep, attempt
        self._warn, self._token = warn, token
        self._sync_events, self._mirror_events = sync_events, mirror_events
        self._executor = ThreadPoolExecutor(1, "packtrain-checkpoint")
        self._writing: Future[Commit] | None = None
        self._exchange = exchange
        self._saves = 0
        self._closing: float | None = None
        self._disk = Outage("saving failed", "training goes on", "checkpoints are written again")
        self._mutex = threading.Lock()
        self._saved: list[Saved] = []
        self._unwanted: set[str] = set()
        self._to_mirror: Commit | None = None
        self._mirroring: Commit | None = None
        self._urgent = False
        self._write_seconds: float | None = None
        self._mirror_seconds = 0.0
        self.seconds_blocked = 0.0
        """Of the training thread, by snapshots and saves, in this attempt."""
        self._remote = RemoteCheckpoints(remote) if remote is not None else None
        self._worker: Worker | None = None
        if remote is not None:
            self._bucket = Outage(
                f"checkpoints are not copied to {remote.uri}",
                "training goes on, and it is tried again",
                f"checkpoints are copied to {remote.uri} again",
            )
            self._worker = Worker("mirror", self._mirror, self._bucket, first_delay=retry_delay)

    @property
    def ready(self) -> bool:
        """Whether a save would begin at once; ask before a snapshot is taken."""
        return self._writing is None or self._writing.done()

    @property
    def last_seconds(self) -> float | None:
        """From a state to a checkpoint that survives this machine, measured at the last; None before."""
        return None if self._write_seconds is None else self._write_seconds + self._mirror_seconds

    def fits_grace(self, seconds: float) -> bool:
        """Whether a save like the last one would end within ``seconds``, with a fifth to spare."""
        return self.last_seconds is None or self.last_seconds <= 0.8 * seconds

    def save(self, snapshot: Snapshot, *, wait: bool) -> bool:
        """Begin to write. False, and nothing is done, while the last is still being written.

        ``wait``: wait for that one and for this one, and raise :class:`StorageError` where it fails;
        without it a failure is a warning of :meth:`poll`. The copy in the bucket is waited for in
        :meth:`close`.
        """
        started = time.monotonic()
        try:
            if not wait and not self.ready:
                return False
            self._urgent = wait
            self._collect()
            if wait:
                # This one has to be written: older ones may have to go first.
                make_room(self.folder)
            self._saves += 1
            self._writing = self._executor.submit(self._write, snapshot, self._saves)
            if wait:
                writing, self._writing = self._writing, None
                writing.result()
            return True
        finally:
            self.seconds_blocked += snapshot.seconds + time.monotonic() - started

    def poll(self) -> list[Saved]:
        """What has been completed since the last call, in order; warnings are given on the way.

        Errors: :class:`ConflictError` where another process writes this run.
        """
        if self.ready:
            self._collect()
        if self._worker is not None:
            self._worker.check()
        self._tell()
        with self._mutex:
            saved, self._saved = self._saved, []
        return saved

    def newest(self) -> Path | None:
        """The highest committed checkpoint, of the disk and the bucket; it is on the disk then.

        A damaged one is passed over with a warning for the one before. Call it before the first save.
        Errors: those of :class:`Storage`: a bucket that cannot be asked may hold a newer one.
        """
        sweep(self.folder)
        local, bad = commits(self.folder)
        remote = self._remote.commits() if self._remote is not None else []
        here, there = {one.order: one for one in local}, {one.order: one for one in remote}
        picked: Commit | None = None
        for order in sorted(here.keys() | there.keys(), reverse=True):
            problem = self._bring(here.get(order), there.get(order))
            if problem is None:
                picked = here.get(order) or there[order]
                break
            name = f"step-{order[-1]}"
            self._unwanted.add(name)
            self._warn(f"checkpoint {name} is passed over: {problem}")
        for name, problem in bad.items():
            if picked is None or (name != picked.name and int(name.partition("-")[2]) > picked.step):
                self._warn(f"checkpoint {name} is passed over: {problem}")
        if picked is not None and self._worker is not None and picked.order not in there:
            self._to_mirror = picked
            self._worker.wake()
        return self.folder / picked.name if picked is not None else None

    def _bring(self, here: Commit | None, there: Commit | None) -> str | None:
        """Have one checkpoint whole on the disk, or say what is wrong with it."""
        problems = []
        if here is not None:
            problem = damage(self.folder / here.name, here)
            if problem is None:
                return None
            problems.append(problem)
        if there is not None:
            assert self._remote is not None
            problem = self._remote.get(there, self.folder)
            if problem is None:
                return None
            problems.append(f"in {self._remote.storage.uri} {problem}")
        return ", and ".join(problems)

    def close(self, *, wait_for_mirror: bool, timeout: float) -> bool:
        """End the threads; whether all that was saved is in the bucket too (True without one).

        ``timeout``: seconds for the bucket at most. What is being written to the disk is waited for.
        """
        started = self._closing = time.monotonic()
        try:
            self._collect()
        finally:
            self._executor.shutdown()
        whole = True
        if self._worker is not None:
            if wait_for_mirror:
                self._urgent = True
                self._worker.wait(timeout)
            with self._mutex:
                whole = self._to_mirror is None
            self._worker.stop(max(0.0, timeout - (time.monotonic() - started)) if wait_for_mirror else 0.0)
        self._tell()
        return whole

    def _collect(self) -> None:
        """Wait for the write that is under way. A full disk is noted; a lost lock is raised."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except StorageError as error:
            # The step in it makes no other cause; safetensors, Python and ours tell of one in other words.
            full = "No space left" in str(error)
            self._disk.failed("full" if full else re.sub(r"\d+", "", str(error)), str(error))
        else:
            self._disk.worked()

    def _write(self, snapshot: Snapshot, save: int) -> Commit:
        started = time.monotonic()

        def token() -> int:
            self._sync_events()
            return self._token()

        def others() -> Facts:
            if snapshot.part.count == 1:
                return {}
            assert self._exchange is not None
            return collect(self._exchange, save, snapshot.part.count, self._out_of_patience)

        commit = write(self.folder, snapshot, attempt=self.attempt, token=token, save=save, others=others)
        seconds = time.monotonic() - started
        with self._mutex:
            self._write_seconds = snapshot.seconds + seconds
            self._saved.append(Saved(commit.step, seconds, commit.size, mirrored=False))
            self._unwanted.discard(commit.name)
            if self._remote is not None:
                self._to_mirror = commit
            busy = {one.name for one in (self._mirroring, self._to_mirror) if one is not None}
            unwanted = frozenset(self._unwanted)
        if self._worker is not None:
            self._worker.wake()
        prune(self.folder, self.keep, unwanted, frozenset(busy))
        return commit

    def _out_of_patience(self) -> bool:
        """Whether the run is ending, and ranks that live would have written their parts by now."""
        return self._closing is not None and time.monotonic() - self._closing > CLOSING_SECONDS

    def _mirror(self) -> None:
        """Copy the newest to the bucket, and what became the newest meanwhile."""
        assert self._remote is not None
        while True:
            with self._mutex:
                self._mirroring = commit = self._to_mirror
            if commit is None:
                return
            started = time.monotonic()
            try:
                self._put(self._remote, commit)
            except GivenUp:
                continue
            finally:
                with self._mutex:
                    self._mirroring = None
            seconds = time.monotonic() - started
            with self._mutex:
                self._mirror_seconds = seconds
                self._saved.append(Saved(commit.step, seconds, commit.size, mirrored=True))
                if self._to_mirror is commit:
                    self._to_mirror = None
                unwanted = frozenset(self._unwanted)
            prune_quietly(self._remote, self.keep, unwanted - {commit.name})

    def _put(self, remote: RemoteCheckpoints, commit: Commit) -> None:
        def before_commit() -> None:
            self._mirror_events()
            self._token()

        remote.put(
            self.folder / commit.name,
            commit,
            writer=(self.attempt, self._token()),
            before_commit=before_commit,
            # A slow bucket would never get one whole if each were given up for the next.
            give_up=lambda: self._urgent and self._to_mirror is not commit,
        )

    def _tell(self) -> None:
        for message in self._disk.take():
            self._warn(message)
        if self._worker is not None:
            for message in self._bucket.take():
                self._warn(message)
