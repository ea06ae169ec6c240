"""Plans and carries out steps: look at all, then make what is missing, in order, until one fails.

Run again, it goes on from there: each step looks before it makes anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from packtrain.errors import ConfigError, ConflictError, PacktrainError, UnavailableError
from packtrain.gcp.ask import Remembering
from packtrain.gcp.commands import ASKING, Command, Runner
from packtrain.gcp.errors import TRY_AGAIN, explain, passes_when_new
from packtrain.gcp.journal import Journal
from packtrain.gcp.steps import Seen, Step, commands_left, look_at
from packtrain.storage.retry import RetryPolicy

#: Seconds that new rights and services have to come into force.
WAIT = 300.0


class NotYetError(UnavailableError):
    """What an earlier step has made or enabled is not known everywhere yet."""


@dataclass(frozen=True)
class Planned:
    step: Step
    seen: Seen


class Report(Protocol):
    """Who is told what happens."""

    def looking(self, step: Step) -> None: ...
    def making(self, step: Step, command: Command) -> None: ...
    def waiting(self, step: Step, why: str) -> None: ...
    def done(self, step: Step, seen: Seen) -> None: ...


@dataclass(frozen=True)
class Patience:
    """How long to wait, and by whose clock."""

    wait: float = WAIT
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def policy(self, deadline: float) -> RetryPolicy:
        return RetryPolicy(1000, deadline, 2.0, 20.0, self.sleep, self.clock)

    def troubled(self) -> RetryPolicy:
        """For what may pass by itself, but need not: about half a minute."""
        return RetryPolicy(5, self.wait, 2.0, 20.0, self.sleep, self.clock)


def plan(steps: Sequence[Step], runner: Runner, journal: Journal, report: Report) -> list[Planned]:
    """Looks at every step. Changes nothing."""
    looking = Remembering(runner)
    planned = []
    for step in steps:
        report.looking(step)
        planned.append(Planned(step, look_at(step, looking, unfinished=journal.began(step.key))))
    return planned


def obstacle(planned: Sequence[Planned]) -> PacktrainError | None:
    """What setup cannot get over; nothing is made before it is out of the way."""
    return next((_blocked(each.step, each.seen) for each in planned if each.seen.blocks), None)


def _blocked(step: Step, seen: Seen) -> PacktrainError:
    if seen.error is not None:
        return type(seen.error)(f"{step.title}: {seen.error}", hint=seen.error.hint)
    return ConfigError(f"{step.title}: {seen.sentence}", hint=seen.hint)


def carry_out(
    planned: Sequence[Planned], runner: Runner, journal: Journal, report: Report, patience: Patience
) -> list[Planned]:
    """Makes what is missing; the steps as they are at the end. The first error ends it."""
    ended = []
    memory = Remembering(runner)
    for each in planned:
        seen = each.seen
        if seen.state == "later":
            seen = look_at(each.step, memory, unfinished=journal.began(each.step.key))
        if seen.blocks:
            raise _blocked(each.step, seen)
        if seen.state == "make":
            seen = _make(each.step, seen, memory, journal, report, patience)
        report.done(each.step, seen)
        ended.append(Planned(each.step, seen))
    return ended


def _make(
    step: Step, seen: Seen, memory: Remembering, journal: Journal, report: Report, patience: Patience
) -> Seen:
    """Runs what is left of the step's commands until a look finds it there."""
    journal.begin(step.key)
    try:
        ended = _made(step, seen, memory, journal, report, patience)
    except PacktrainError:
        memory.forget(cluster=True)
        left = look_at(step, memory, unfinished=True)
        if left.state == "make" and left.remaining is None:
            journal.end(step.key)  # nothing is there: what comes later under this name is not ours
        raise
    journal.end(step.key)
    return ended


def _made(
    step: Step, seen: Seen, memory: Remembering, journal: Journal, report: Report, patience: Patience
) -> Seen:
    # A cluster that is being made takes as long as the command that makes it may.
    limit = patience.wait if step.timeout <= ASKING else max(patience.wait, step.timeout)
    coming, trying = patience.policy(limit).start(), patience.troubled().start()
    trouble: PacktrainError | None = None
    run, taken = True, False
    while True:
        trouble = _run(step, seen, memory.runner, report) if run else None
        memory.forget(cluster=step.key in {"cluster", "pool"})
        if seen.renews and trouble is None:
            return replace(seen, state="there")
        again = look_at(step, memory, unfinished=journal.began(step.key))
        if again.state not in {"make", "refused"}:
            if again.blocks:
                raise trouble or _blocked(step, again)
            return again
        if again.state == "refused" and not isinstance(again.error, UnavailableError):
            raise trouble or _blocked(step, again)
        trouble = trouble or again.error
        if isinstance(trouble, ConflictError) and taken:
            raise trouble
        taken = isinstance(trouble, ConflictError)
        # What went through and is only not seen yet is waited for, not made again.
        run = trouble is not None
        seen = again if again.state == "make" else seen
        report.waiting(step, str(trouble) if trouble else "it is not in force yet")
        if not (trying if trouble and not isinstance(trouble, NotYetError) else coming).wait():
            raise trouble or UnavailableError(
                f"{step.title}: was made, and is not in force after {limit:.0f} seconds", hint=TRY_AGAIN
            )


def _run(step: Step, seen: Seen, runner: Runner, report: Report) -> PacktrainError | None:
    """Runs the commands in order; the error of the first that fails, where waiting may help."""
    for command in commands_left(step, seen):
        report.making(step, command)
        try:
            finished = runner.run(command, timeout=step.timeout)
        except UnavailableError as error:
            return error
        if finished.ok:
            continue
        refused = explain(command, finished)
        if isinstance(refused, UnavailableError | ConflictError):
            return refused
        if passes_when_new(finished):
            return NotYetError(str(refused), hint=refused.hint)
        raise refused
    return None
