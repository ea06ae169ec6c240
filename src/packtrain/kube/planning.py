"""What ``packtrain submit`` asks the planner before it makes anything: does it fit, how long, how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packtrain.config import RunConfig
from packtrain.errors import GateError, PacktrainError
from packtrain.kube.observe import Say
from packtrain.plan.companion import companion
from packtrain.plan.machines import GIB
from packtrain.plan.options import PlanKeys
from packtrain.plan.summary import Summary
from packtrain.train.progress import duration

if TYPE_CHECKING:
    from packtrain.plan.plan import Planned


def plan_first(config: RunConfig, say: Say) -> Summary | None:
    """Say what the run needs; None where that cannot be known from here.

    Errors: :class:`GateError` with what would make it fit.
    """
    with companion():
        return _planned(config, say)


def _planned(config: RunConfig, say: Say) -> Summary | None:
    from packtrain.plan.plan import plan_run

    try:
        plan = plan_run(config, PlanKeys(), lambda _: None)
    except PacktrainError as error:
        say(f"Not planned: {error}")
        return None
    if not plan.fits:
        from packtrain.plan.ask import does_not_fit, first_of
        from packtrain.plan.suggest import suggestions

        raise GateError(does_not_fit(plan), hint=first_of(suggestions(plan, say, many=1)))
    say(sentence(plan))
    return Summary.of(plan)


def sentence(plan: Planned) -> str:
    profile, time, usd = plan.profile, plan.time, plan.cost.usd
    told = f"Planned: each GPU needs {profile.reserved_bytes / GIB:.1f} of {plan.target.memory / GIB:.1f} GiB"
    if time is not None:
        low, high = duration(time.seconds.low), duration(time.seconds.high)
        told += f"; about {duration(time.seconds.expected)} ({low} to {high})"
    else:
        told += f"; how long it takes is not known ({plan.data_why})"
    if usd is not None:
        told += f"; about {usd.expected:,.2f} USD ({usd.low:,.2f} to {usd.high:,.2f})"
    return f"{told}."
