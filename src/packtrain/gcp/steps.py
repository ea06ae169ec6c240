"""Steps: each looks whether something is there and right, makes it, and takes it back.

Looking changes nothing. What is there and differs is never changed by itself: it may be somebody
else's. What setup makes carries a label (or a description, where Google Cloud has no labels), so that
``destroy`` on any machine knows its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from packtrain.errors import PacktrainError
from packtrain.gcp.commands import ASKING, Command, Runner

State = Literal["there", "make", "differs", "later", "yours", "refused"]
LABEL = "managed-by=packtrain"


@dataclass(frozen=True)
class Seen:
    """What a look found."""

    state: State
    """there: nothing to do. make: setup makes it. differs: there, and not as it should be. later: can be
    looked at only when an earlier step is made. yours: for the user to do. refused: may not be looked at."""
    sentence: str
    hint: str | None = None
    """What the user can do about it."""
    blocks: bool = False
    """Setup cannot go on with this."""
    ours: bool = False
    """Made by setup, as its label says."""
    remaining: tuple[Command, ...] | None = None
    """With ``make``: only these of the step's commands are left; None: all."""
    renews: bool = False
    """With ``make``: it is there already, and its commands going through is enough."""
    error: PacktrainError | None = None


@dataclass(frozen=True)
class Undo:
    """What ``destroy`` does with a step's thing."""

    action: Literal["remove", "leave", "gone"]
    sentence: str
    commands: tuple[Command, ...] = ()


@dataclass(frozen=True)
class Step:
    key: str
    title: str
    """What it is about, such as ``bucket gs://b``."""
    reason: str
    """Why a run needs it."""
    look: Callable[[Runner, bool], Seen]
    """Asks, and changes nothing. The flag: an earlier setup began this step on this machine and did
    not end it."""
    make: tuple[Command, ...] = ()
    """From nothing."""
    undo: Callable[[Runner, Seen], Undo] | None = None
    """None: there is nothing to take back."""
    timeout: float = ASKING
    """Seconds for each command."""


def look_at(step: Step, runner: Runner, *, unfinished: bool = False) -> Seen:
    """The step's own look, with an error in it as a state."""
    try:
        return step.look(runner, unfinished)
    except PacktrainError as error:
        return Seen("refused", str(error), error.hint, blocks=True, error=error)


def commands_left(step: Step, seen: Seen) -> tuple[Command, ...]:
    return step.make if seen.remaining is None else seen.remaining


def remove_if_ours(commands: tuple[Command, ...], what: str = "") -> Callable[[Runner, Seen], Undo]:
    """The undo of a thing with a label: ours goes, another's stays."""

    def undo(_: Runner, seen: Seen) -> Undo:
        if seen.state in {"make", "later", "yours"}:
            return Undo("gone", "is not there")
        if seen.state == "refused":
            return Undo("leave", seen.sentence)
        if not seen.ours:
            return Undo("leave", f"was not made by packtrain (it has no label {LABEL})")
        return Undo("remove", f"made by packtrain{what}", commands)

    return undo
