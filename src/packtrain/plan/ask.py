"""What ``packtrain plan`` is asked, answered in order: the plan, then what was wished beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from packtrain.config import RunConfig
from packtrain.errors import GateError
from packtrain.plan import compare as beside
from packtrain.plan.answer import Answer
from packtrain.plan.companion import companion
from packtrain.plan.machines import GIB
from packtrain.plan.memory import largest
from packtrain.plan.options import PlanKeys
from packtrain.plan.plan import Planned, plan_run
from packtrain.plan.suggest import Suggestion, suggestions


@dataclass(frozen=True)
class Questions:
    compare: bool = False
    max_batch: bool = False
    max_length: bool = False
    scale: str | None = None

    def counts(self) -> list[int]:
        """The numbers of GPUs of ``scale``. Errors: :class:`UsageError`."""
        return [] if self.scale is None else beside.counts(self.scale)


def ask(
    config: RunConfig,
    keys: PlanKeys,
    questions: Questions,
    say: Callable[[str], None],
    *,
    forking: bool = True,
) -> Answer:
    """``forking``: False in a process with threads: a lock that one of them holds stays locked in a child.

    Errors: those of :func:`packtrain.plan.plan.plan_run`.
    """
    with companion() if forking else nullcontext():
        return _answered(config, keys, questions, say)


def _answered(config: RunConfig, keys: PlanKeys, questions: Questions, say: Callable[[str], None]) -> Answer:
    plan = plan_run(config, keys, say)
    setup, memory = plan.setup, plan.target.memory
    others = questions.compare or questions.scale is not None
    return Answer(
        plan,
        suggestions=() if others else suggestions(plan, say),
        max_batch=largest(setup, memory) if questions.max_batch else None,
        max_length=largest(replace(setup, micro_batch=1), memory, "length") if questions.max_length else None,
        options=beside.compare(plan, say) if questions.compare else None,
        scaled=beside.scale(plan, questions.counts(), say) if questions.scale is not None else None,
    )


def check_fits(answer: Answer) -> None:
    """Errors: :class:`GateError` where nothing that was asked for fits."""
    if answer.fits:
        return
    raise GateError(does_not_fit(answer.plan), hint=first_of(answer.suggestions))


def first_of(found: Sequence[Suggestion]) -> str | None:
    """The least change that makes it fit, as a hint; None where there is none."""
    return f"{found[0].sentence}: " + " ".join(f"-s {each}" for each in found[0].overrides) if found else None


def does_not_fit(plan: Planned) -> str:
    device = "this machine" if plan.target.machine is None else f"one {plan.target.machine.gpu_name}"
    return (
        f"{plan.config.name} does not fit: a step needs {plan.profile.reserved_bytes / GIB:.1f} GiB, and "
        f"{device} has {plan.target.memory / GIB:.1f} GiB"
    )
