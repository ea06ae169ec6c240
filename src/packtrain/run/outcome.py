"""How a rank ends, and what the ends of all ranks add up to.

torchrun returns 1 whatever its workers returned, so that the ranks tell the supervisor themselves: in
the folder that ``PACKTRAIN_OUTCOMES`` names, each writes how it ended, and the supervisor writes
``stop-requested`` before it passes a signal on. torchrun also terminates the ranks that are left when
one has failed: a SIGTERM without that file is no preemption but the loss of a peer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from packtrain.errors import (
    BY_EXIT_CODE,
    BugError,
    MemoryExceededError,
    PacktrainError,
    PreemptedError,
    StorageError,
    UnavailableError,
)
from packtrain.rundir import write_atomically

FOLDER = "PACKTRAIN_OUTCOMES"
_STOP = "stop-requested"


@dataclass(frozen=True)
class RankOutcome:
    """How one rank ended."""

    rank: int
    exit_code: int
    message: str
    hint: str | None = None
    at: float = 0.0
    """When, in seconds since 1970; between two failures of one kind the earlier is the cause."""


@dataclass(frozen=True)
class ProcessEnd:
    """What the system says about the end of a rank's process."""

    status: int
    """The exit code; minus the signal that it died of."""
    at: float


def write_outcome(exit_code: int, message: str, hint: str | None = None) -> None:
    """Called by a rank at its end. Does nothing where there is no supervisor."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    outcome = RankOutcome(int(os.environ.get("RANK", "0")), exit_code, message, hint, time.time())
    with contextlib.suppress(StorageError):  # a full disk: the exit code is left, and says the same
        write_atomically(Path(folder) / f"rank-{outcome.rank}.json", json.dumps(asdict(outcome)).encode())


def of_the_machine(error: BaseException) -> PacktrainError | None:
    """Our error for one of Python's or PyTorch's that a machine, not a bug, causes; None for others."""
    # By name: torch.OutOfMemoryError, without importing torch to tell of a failure. On a CPU torch
    # raises a plain RuntimeError.
    of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if of_memory or "can't allocate memory" in str(error):
        detail = str(error).splitlines()[0] if str(error) else "the host has no more"
        return MemoryExceededError(
            f"out of memory: {detail}",
            hint="lower train.micro_batch or data.max_length, set train.activation_checkpointing, or use a "
            "larger machine",
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageError(f"the disk is full{f': {error.filename}' if error.filename else ''}")
    return None


def is_preemption() -> bool:
    """Whether a SIGTERM means that the run is to stop. False: torchrun ends this rank, for a peer is lost.

    Without a supervisor every signal means what it says. Safe in a signal handler.
    """
    folder = os.environ.get(FOLDER)
    return folder is None or (Path(folder) / _STOP).exists()


def request_stop(folder: Path) -> None:
    """Called by the supervisor before it passes a signal on."""
    (folder / _STOP).touch()


def read_outcomes(folder: Path) -> dict[int, RankOutcome]:
    """By rank; ranks that died before they could write are not in it."""
    outcomes = {}
    for path in folder.glob("rank-*.json"):
        outcome = RankOutcome(**json.loads(path.read_bytes()))
        outcomes[outcome.rank] = outcome
    return outcomes


@dataclass(frozen=True)
class Circumstances:
    """What tells a cause from its echo when a rank died without a word."""

    first_failure: float
    """When the first rank ended with something else than 0, in seconds since 1970."""
    stopping: bool = False
    """The run had been asked to stop."""
    overdue: bool = False
    """The grace was over, and the supervisor killed what was left."""
    oom_killed: bool = False
    """The kernel has killed for want of memory while the ranks ran."""


def settle(rank: int, told: RankOutcome | None, end: ProcessEnd | None, around: Circumstances) -> RankOutcome:
    """How a rank really ended, from what it ``told`` and what the system saw (None: it ended with 0)."""
    if end is None:
        return told or RankOutcome(rank, 0, "done")
    if told is not None and told.exit_code != 0:
        return told
    if end.status > 0:
        known = end.status in BY_EXIT_CODE
        message = f"rank {rank} ended with exit code {end.status}"
        return RankOutcome(rank, end.status if known else BugError.exit_code, message, at=end.at)
    killed = _killed(rank, end, around)
    message = f"rank {rank} died of {signal_name(-end.status)}"
    return killed or RankOutcome(rank, BugError.exit_code, message, at=end.at)


def _killed(rank: int, end: ProcessEnd, around: Circumstances) -> RankOutcome | None:
    """The outcome of a rank that somebody ended; None where it was its own doing, or nobody knows."""
    kind: type[PacktrainError] | None = None
    message, hint = "", None
    if end.status == -signal.SIGTERM and around.stopping:
        kind, message = PreemptedError, "was stopped before it had begun"
    elif end.status == -signal.SIGTERM:
        kind, message = UnavailableError, "was terminated"
    elif end.status != -signal.SIGKILL:
        return None
    elif around.overdue:
        kind, message = BugError, "did not end in the grace that it had and was killed"
        hint = "the same command goes on from the last checkpoint"
    elif int(end.at) > int(around.first_failure):  # torchrun's clock counts whole seconds
        # While the run is being stopped, that is what ended it: another attempt is no failure of this one.
        kind = PreemptedError if around.stopping else UnavailableError
        message = "was killed, for it did not end after another one had"
        hint = "the same command goes on from the last checkpoint"
    elif around.oom_killed:
        kind, message = MemoryExceededError, "was killed by the system: the host is out of memory"
        hint = "give the machine or the container more memory, or start fewer processes on it"
    return None if kind is None else RankOutcome(rank, kind.exit_code, f"rank {rank} {message}", hint, end.at)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def gravity(exit_code: int) -> int:
    """The order in which exit codes count, the gravest highest.

    What a new attempt cannot help (2, 65, 71, 73, 76, 77, 78, 79) comes first: it would fail again. Then
    a bug (70), I/O (74), and a lost service or peer (69), which is often only the echo of one of the
    former; then a stop with the state saved (75), and last 0, which all ranks must have.
    """
    if exit_code == 0:
        return 0
    if exit_code in BY_EXIT_CODE and BY_EXIT_CODE[exit_code].retry == "no":
        return 5
    ranks = {StorageError.exit_code: 3, UnavailableError.exit_code: 2, PreemptedError.exit_code: 1}
    return ranks.get(exit_code, 4)


def gravest(outcomes: Iterable[RankOutcome]) -> RankOutcome:
    """The outcome that decides: the gravest, of those the earliest.

    Where several ranks say the same, it is the lowest one's: the first of a node is the one that is heard.
    """
    everyone = list(outcomes)
    first = min(everyone, key=lambda outcome: (-gravity(outcome.exit_code), outcome.at))
    same = [each for each in everyone if (each.exit_code, each.message) == (first.exit_code, first.message)]
    return min(same, key=lambda outcome: outcome.rank)
