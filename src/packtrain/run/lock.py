"""One writer a run: a lock object that its owner rewrites while it lives.

The owner is a Job's or JobSet's UID (``PACKTRAIN_OWNER``), so that a replacement pod takes over at
once, and host, process and its start time on a machine. Another owner takes over only after 60 s
without a heartbeat, by the server's clock: the times of the lock and of an object that is written
now are compared, never this machine's clock. Every takeover changes the generation, so that a writer
that was thought dead notices at its next heartbeat; commits carry the generation that their writer
got (``token``).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import ConflictError, PacktrainError
from packtrain.rundir import timestamp
from packtrain.storage import ObjectInfo, PreconditionError, Storage

#: Seconds without a heartbeat after which another owner may take over.
STALE_AFTER = 60.0
#: Seconds between two heartbeats.
EVERY = 15.0


@dataclass(frozen=True)
class Owner:
    """Who writes. Two owners with the same ``id`` follow one another and never write at once."""

    id: str
    host: str
    machine: str = ""
    """Boot and process-number space: two processes of one machine can look each other up."""
    pid: int = 0
    started: str = ""
    """When the process began, so that another one that got the same number is told apart."""

    @classmethod
    def this_process(cls, environment: Mapping[str, str] = os.environ) -> Owner:
        host, pid = socket.gethostname(), os.getpid()
        started = process_start(pid) or ""
        identity = environment.get("PACKTRAIN_OWNER") or f"{host}:{pid}:{started}"
        return cls(identity, host, _machine(), pid, started)

    def is_dead(self) -> bool:
        """Whether its process was on this machine and is gone. False where that cannot be known."""
        return self._is_here() and process_start(self.pid) != self.started

    def is_alive(self) -> bool:
        """Whether its process is on this machine and runs, whatever a clock says of its last sign."""
        return self._is_here() and process_start(self.pid) == self.started

    def _is_here(self) -> bool:
        return bool(self.machine) and self.machine == _machine()


def process_start(pid: int) -> str | None:
    """When the process began, in the system's own words; None where there is no such process."""
    if Path("/proc/self/stat").exists():
        try:
            # Field 22, counted after the name in parentheses, which may hold anything. proc(5)
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        return None if state in {"Z", "X"} else fields[18]
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


class Lock:
    """The lock of a run, as an object in its storage. A context manager: acquired, kept, released.

    ``token`` is the generation that ``acquire`` got: it grows with every owner, and goes into each
    commit. ``generation`` is that of the last heartbeat.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        name: str = "lock",
        owner: Owner | None = None,
        stale_after: float = STALE_AFTER,
        every: float = EVERY,
    ) -> None:
        self.storage, self.name = storage, name
        self.owner = owner or Owner.this_process()
        self.stale_after, self.every = stale_after, every
        self.token = self.generation = 0
        self._acquired, self._beaten = "", 0.0
        self._lost: ConflictError | None = None
        self._stop, self._mutex = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, or raise ConflictError that says who has it."""
        self._acquired, self._lost = timestamp(), None
        info = self.storage.stat(self.name)
        if info is not None:
            self._require_free(info)
        begun = time.monotonic()
        try:
            written = self.storage.write(
                self.name, self._content(), if_generation=info.generation if info else 0
            )
        except PreconditionError as error:
            raise self._conflict("took it at the same moment") from error
        self.token = self.generation = written.generation
        self._beaten = begun

    def _require_free(self, info: ObjectInfo) -> None:
        holder = self._holder()
        if holder is not None and (holder.id == self.owner.id or holder.is_dead()):
            return
        if holder is not None and holder.is_alive():
            raise self._conflict("is running")
        age = self._server_now() - info.updated
        if age <= self.stale_after:
            raise self._conflict(f"gave its last sign {max(age, 0):.0f} s ago")

    def _server_now(self) -> float:
        probe = f"{self.name}.probe"
        now = self.storage.write(probe, b"").updated
        self.storage.delete(probe)
        return now

    def _holder(self) -> Owner | None:
        """Who has the lock; None where nobody has, or nobody knows."""
        try:
            fields = json.loads(self.storage.read(self.name))
            return Owner(**{name: fields["owner"][name] for name in Owner.__dataclass_fields__})
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _content(self) -> bytes:
        content: dict[str, Any] = {
            "owner": asdict(self.owner),
            "acquired": self._acquired,
            "token": self.token,
        }
        return (json.dumps(content, indent=2) + "\n").encode()

    def _conflict(self, what: str) -> ConflictError:
        try:
            fields = json.loads(self.storage.read(self.name))
            owner, since = fields["owner"], fields["acquired"]
            who = f"{owner['id']} (process {owner['pid']} on {owner['host']}, since {since})"
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            who = "another process"
        return ConflictError(
            f"{self.storage.uri}: {who} writes this run, and {what}",
            hint="let it end, or stop it; a writer that died without saying so is given up"
            f" {self.stale_after:.0f} s after its last sign",
        )

    def heartbeat(self) -> None:
        """Rewrite the lock. Raises ConflictError, now and from then on, where it is lost."""
        with self._mutex:
            if self._lost is not None:
                raise self._lost
            begun = time.monotonic()
            try:
                written = self.storage.write(self.name, self._content(), if_generation=self.generation)
            except PreconditionError as error:
                self._lost = self._conflict("has taken it over from this one")
                raise self._lost from error
            self.generation, self._beaten = written.generation, begun

    def check(self) -> None:
        """Raise ConflictError where the lock is lost; call it before each commit.

        Where no heartbeat came through for so long that another may have taken over (the machine
        slept, the bucket was away), one is made now, and its errors are raised.
        """
        if self._lost is not None:
            raise self._lost
        if time.monotonic() - self._beaten > self.stale_after:
            self.heartbeat()

    def raise_if_lost(self) -> None:
        """Raise ConflictError where a heartbeat has found the lock taken; nothing is asked now.

        For what goes on while the bucket is away: nobody else commits unseen, since commits carry the
        token and the bucket refuses an older writer's.
        """
        if self._lost is not None:
            raise self._lost

    def keep(self) -> None:
        """Start the thread that makes heartbeats until ``release``."""
        assert self._thread is None
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="packtrain-lock", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self.every):
            try:
                self.heartbeat()
            except ConflictError:
                return  # check() says it
            except (PacktrainError, OSError):
                continue  # the bucket is away: the next one may come through, and check() sees to it

    def release(self) -> None:
        """Stop the heartbeats and remove the lock, if it is still ours.

        Where that fails nothing is lost, and how the run ended is what counts: the same owner takes over
        at once, another one when the time is over.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.generation and self._lost is None:
            with suppress(PacktrainError, OSError):
                self.storage.delete(self.name, if_generation=self.generation)
        self.token = self.generation = 0

    def __enter__(self) -> Lock:
        self.acquire()
        self.keep()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
