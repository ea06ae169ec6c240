"""What a run costs: its hours at the machine's list price, and what preemptions are expected to take.

A price that is not known is asked for and never made up. What a node costs before its container starts
and after it ends is not in it (docs/cost.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from packtrain.config import CheckpointConfig, RunConfig, seconds
from packtrain.plan.duration import Duration
from packtrain.plan.interval import Interval
from packtrain.plan.machines import Price, price_per_hour
from packtrain.plan.target import Target

CURRENCY = "USD"
DAY = 86_400.0
#: Preemptions of a node a day: "between 5% and 15% per day per project" (Google's documentation of
#: preemptible VMs, an observation over all machine types). Of GPU machines nothing is published.
PREEMPTIONS = Interval(0.05, 0.1, 0.15)
PREEMPTIONS_SOURCE = (
    "Google's documentation of preemptible VMs: 5 to 15% a day, of all machine types; for GPUs nothing is "
    "published: -s plan.preemptions=N sets your own"
)
#: Seconds that a preemption takes beside the work since the last checkpoint, of the run's start.
CUT = 0.5


@dataclass(frozen=True)
class Preemptions:
    """Spot: what is expected to be lost."""

    expected: Interval
    """How many in the run."""
    a_day: Interval
    """Of one node."""
    source: str
    lost: Interval
    """Seconds of work that are done again, and of starting again."""


@dataclass(frozen=True)
class Cost:
    usd: Interval | None
    """None where the price is not known: ``why``."""
    why: str
    price: Price | None
    """Of one machine; None on this machine."""
    preemptions: Preemptions | None


def cost_of(config: RunConfig, target: Target, time: Duration | None, preemptions: float | None) -> Cost:
    """``preemptions``: the user's own rate, a node and day; ``time`` None where it is not known."""
    if target.machine is None:
        return Cost(None, "this machine has no price", None, None)
    cluster = config.cluster
    price = price_per_hour(target.machine, cluster.capacity, cluster.location)
    lost = None
    if cluster.capacity == "spot" and time is not None:
        lost = preemptions_of(config.checkpoint, target.nodes, time, preemptions)
    if price.usd is None:
        return Cost(
            None,
            f"no source has a list price of {price.machine}, {cluster.capacity}; say yours in "
            f"~/.config/packtrain/machines.toml: [prices.machines.{price.machine}] {cluster.capacity} = …",
            price,
            lost,
        )
    if time is None:
        return Cost(None, "how long it takes is not known", price, None)
    hours = time.seconds + (lost.lost if lost else Interval.exactly(0.0))
    return Cost(hours * (target.nodes * price.usd / 3600), "", price, lost)


def preemptions_of(
    checkpoint: CheckpointConfig, nodes: int, time: Duration, own: float | None
) -> Preemptions:
    """Any node that goes stops the run: it goes on from its last checkpoint, and starts anew."""
    rate = PREEMPTIONS if own is None else Interval.exactly(own)
    count = rate * nodes * (time.seconds * (1 / DAY))
    between = _between_checkpoints(checkpoint, time)
    # A stop is told, and mostly saved in time; at worst all since the last checkpoint is lost.
    again = Interval(0.0, CUT * between / 2, between)
    return Preemptions(
        count, rate, PREEMPTIONS_SOURCE if own is None else "plan.preemptions", count * (again + time.startup)
    )


def _between_checkpoints(checkpoint: CheckpointConfig, time: Duration) -> float:
    """Seconds, no more than the training takes."""
    every = checkpoint.every
    wanted = every * time.a_step if isinstance(every, int) else seconds(every)
    return min(wanted, time.training.expected)
