"""Stops a run at a chosen moment of its life, as a real process: what ``verify-resume`` does to one.

A moment is seen from outside, by what the run has printed, written and left on the disk; nothing in
the run knows that it is watched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packtrain.run import interrupts, processes
from packtrain.rundir import Event, RunDir, parse_events

Target = Literal["leader", "rank", "everything"]
#: Seconds between two looks at a run: shorter than any phase that is to be hit.
LOOK = 0.002
#: The same, where only its end is waited for.
WAIT = 0.02


@dataclass(frozen=True)
class Watched:
    """A training as a process of its own, and where it tells of itself."""

    process: subprocess.Popen[bytes]
    run_dir: RunDir
    log: Path
    """What it prints to standard error."""
    check: Callable[[], None]
    """Raises KeyboardInterrupt where somebody wants all of this to end (:mod:`packtrain.run.interrupts`)."""

    def wait(self, until: float) -> int:
        """Its exit code; raises :class:`TimeoutError` at ``until``, by the monotonic clock."""
        while (code := self.process.poll()) is None:
            self.check()
            if time.monotonic() > until:
                raise TimeoutError("it did not end in time")
            time.sleep(WAIT)
        return code

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def says(self, *beginnings: str) -> bool:
        return any(line.startswith(beginnings) for line in self.lines())

    def events(self) -> list[Event]:
        """All of them, of every attempt."""
        try:
            return list(parse_events(self.run_dir.events_file.read_text(errors="replace").splitlines()))
        except FileNotFoundError:
            return []

    def has(self, kind: str, step: int) -> bool:
        """Whether this attempt has told of ``kind`` at ``step``."""
        events = self.events()
        return any(
            (each.kind, each.step, each.attempt) == (kind, step, events[-1].attempt) for each in events
        )

    def is_writing(self) -> bool:
        """Whether a checkpoint is being written right now."""
        return any(self.run_dir.checkpoints.glob(".step-*.tmp"))


@dataclass(frozen=True)
class Moment:
    """When to strike: as soon as ``reached``, or ``delay`` seconds later."""

    name: str
    reached: Callable[[Watched], bool]
    delay: float = 0.0


def moments(
    *, middle: int, evaluation: int | None, step_seconds: float = 0.0, steps: int | None = None
) -> dict[str, Moment]:
    """The moments of a new run, by name, in their order.

    ``middle`` is a step in the middle of an epoch (0: before the first); ``evaluation`` one after which
    an evaluation comes, None for a run without. ``step_seconds``: what a step takes, to strike in the
    midst of its accumulation. ``steps``: of the run, where a later one must not be waited for.
    """
    first = "start" if evaluation is None else "eval"
    later = middle + 1 if steps is None else min(middle + 1, steps)
    made = [
        Moment("starting", lambda run: run.run_dir.identity_file.exists()),
        Moment("reading the data", lambda run: run.says("reading the data")),
        Moment("loading the base", lambda run: run.says("loading ")),
        Moment("first step", lambda run: run.has(first, 0)),
        Moment("accumulating", lambda run: run.has("step" if middle else first, middle), 0.5 * step_seconds),
        Moment("training", lambda run: run.has("step", later)),
    ]
    if evaluation is not None:
        made.append(Moment("evaluating", lambda run: run.has("step", evaluation)))
    made += [
        Moment("saving", Watched.is_writing),
        Moment("writing the adapter", lambda run: run.says("writing the adapter", "writing the model")),
        Moment("publishing", lambda run: run.says("publishing to")),
    ]
    return {moment.name: moment for moment in made}


@contextmanager
def started(
    arguments: Sequence[str], run_dir: RunDir, log: Path, environment: Mapping[str, str]
) -> Iterator[Watched]:
    """``packtrain`` with ``arguments``; nothing of it is left at the end, however that comes."""
    with interrupts.held() as check:
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "packtrain.cli.main", *arguments],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for who watches
            )
        try:
            yield Watched(process, run_dir, log, check)
        finally:
            if process.poll() is None:
                processes.send(everything(process.pid), signal.SIGKILL)
            process.wait()


def strike(run: Watched, moment: Moment, number: signal.Signals, target: Target, until: float) -> bool:
    """Send ``number`` at ``moment``; False where the run had ended before.

    ``target``: the process that was started, one rank of it (the last), or all of it, as when a machine
    is lost. ``until``: by the monotonic clock; raises :class:`TimeoutError`.
    """
    while not moment.reached(run):
        if run.process.poll() is not None:
            return False
        run.check()
        if time.monotonic() > until:
            raise TimeoutError(f"{moment.name} was not reached in time")
        time.sleep(LOOK)
    due = time.monotonic() + moment.delay
    while (left := due - time.monotonic()) > 0:
        run.check()
        time.sleep(min(left, WAIT))
    if run.process.poll() is not None:
        return False
    pid = run.process.pid
    if target == "leader":
        run.process.send_signal(number)
        return True
    if target == "everything":
        processes.send(everything(pid), number)
        return True
    rank = last_rank(pid)
    processes.send([pid if rank is None else rank], number)
    return True


def everything(pid: int) -> list[int]:
    """A process and all below it, from the top: nobody starts another when its children go."""
    return [pid, *processes.descendants(pid)]


def last_rank(pid: int) -> int | None:
    """The process of the highest rank below ``pid``; None where there are no ranks (yet)."""
    ranks: dict[int, int] = {}
    for below in processes.descendants(pid):
        rank = _rank(below)
        if rank is not None:
            ranks[rank] = below
    return ranks[max(ranks)] if ranks else None


def _rank(pid: int) -> int | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    if b"packtrain.cli.main" not in command:
        return None
    return next((int(each[5:]) for each in variables if each.startswith(b"RANK=")), None)


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For a run of our own: nothing in it says that it is another one, or part of one."""
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {
        name: value
        for name, value in environment.items()
        if name == "PACKTRAIN_CACHE" or not (name.startswith("PACKTRAIN_") or name in ranks)
    }
    return kept | {"PACKTRAIN_LINGER": "0"}
