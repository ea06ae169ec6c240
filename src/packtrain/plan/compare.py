"""Machines beside each other, and numbers of GPUs: what fits, how fast, for how much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from packtrain.errors import ConfigError, UsageError
from packtrain.plan.cost import CURRENCY, Cost, cost_of
from packtrain.plan.machines import Capacity, Machine, machines
from packtrain.plan.plan import Planned, planned
from packtrain.plan.target import Target

#: How nodes can be bought by anyone; a reservation costs what on-demand does, a queue what flex-start does.
CAPACITIES: tuple[Capacity, ...] = ("spot", "flex-start", "on-demand")
#: Of a machine that packtrain connects several of.
NODES = (1, 2, 4)
#: Twice the GPUs pay where they take no more than this share of the time.
PAYS = 0.75


@dataclass(frozen=True)
class Option:
    """One way to run it."""

    plan: Planned
    capacity: Capacity
    cost: Cost
    cheapest: bool = False
    fastest: bool = False

    @property
    def seconds(self) -> float:
        """Expected, of the run; of a million tokens where it is not known how many there are."""
        speed = self.plan.tokens_per_second
        assert speed is not None
        return self.plan.time.seconds.expected if self.plan.time else 1e6 / speed

    @property
    def usd(self) -> float | None:
        """Expected, of the same; None without a price."""
        if self.cost.usd is not None:
            return self.cost.usd.expected
        price = self.cost.price.usd if self.cost.price else None
        return None if price is None else self.plan.target.nodes * price / 3600 * self.seconds

    def to_json(self) -> dict[str, Any]:
        target, time, usd = self.plan.target, self.plan.time, self.cost.usd
        assert target.machine is not None
        return {
            "machine": target.machine.name,
            "nodes": target.nodes,
            "gpus": target.gpus,
            "capacity": self.capacity,
            "fits": self.plan.fits,
            "reserved_bytes": self.plan.profile.reserved_bytes,
            "available_bytes": target.memory,
            "tokens_per_second": self.plan.tokens_per_second,
            "time_seconds": None if time is None else time.seconds.to_json(),
            "cost": None if usd is None else usd.to_json() | {"currency": CURRENCY},
            "cost_why": self.cost.why or None,
            "upper_bound": bool(self.cost.price and self.cost.price.upper_bound),
            "cheapest": self.cheapest,
            "fastest": self.fastest,
        }


def compare(plan: Planned, say: Callable[[str], None]) -> list[Option]:
    """Every kind of machine, way to buy it and number of nodes; the cheapest that fit first."""
    options = []
    for target in _targets():
        say(f"tracing {target.name}")
        tried = _for(plan, target)
        if tried is None:
            continue
        for capacity in CAPACITIES:
            cluster = plan.config.cluster.model_copy(update={"capacity": capacity})
            config = plan.config.model_copy(update={"cluster": cluster})
            options.append(
                Option(tried, capacity, cost_of(config, target, tried.time, plan.keys.preemptions))
            )
    return ranked(options)


def ranked(options: Sequence[Option]) -> list[Option]:
    """What fits first, by cost, then time; the best are marked."""
    order = sorted(options, key=lambda each: (not each.plan.fits, _usd(each), each.seconds))
    fitting = [each for each in order if each.plan.fits]
    cheapest = next((each for each in fitting if each.usd is not None), None)
    fastest = min(fitting, key=lambda each: (each.seconds, _usd(each)), default=None)
    return [replace(each, cheapest=each is cheapest, fastest=each is fastest) for each in order]


def _usd(option: Option) -> float:
    return float("inf") if option.usd is None else option.usd


def _targets() -> Iterator[Target]:
    seen = set()
    for machine in machines().values():
        kind = (machine.gpu, machine.gpus)
        if kind in seen or machine.memory < machine.gpus * machine.gpu_memory:
            continue
        seen.add(kind)
        for nodes in NODES[:1] if machine.fabric == "tcp" else NODES:
            yield Target(machine, nodes * machine.gpus)


def _for(plan: Planned, target: Target) -> Planned | None:
    """The same run there; None where it cannot be spread like that."""
    keys = plan.keys.model_copy(update={"gpu": None, "gpus": None})
    if keys.sharding is not None and target.gpus == 1:
        keys = keys.model_copy(update={"sharding": None})
    try:
        return planned(plan.config, keys, plan.base, target, plan.data, plan.data_why, probing=False)
    except ConfigError:
        return None


@dataclass(frozen=True)
class Scaled:
    """The run on some number of GPUs."""

    plan: Planned
    speed: float
    """Over the first one's."""
    efficiency: float
    """Speed over what as many more GPUs would ideally give."""

    def to_json(self) -> dict[str, Any]:
        plan, step = self.plan, self.plan.step
        assert step is not None
        usd = plan.cost.usd
        return {
            "gpus": plan.target.gpus,
            "nodes": plan.target.nodes,
            "sharding": plan.setup.sharding,
            "fits": plan.fits,
            "peak_bytes": plan.profile.peak_bytes,
            "reserved_bytes": plan.profile.reserved_bytes,
            "communication_bytes": communication(plan),
            "step_seconds": step.seconds.to_json(6),
            "waiting_seconds": step.waiting.to_json(6),
            "tokens_per_second": plan.tokens_per_second,
            "speed": round(self.speed, 3),
            "efficiency": round(self.efficiency, 3),
            "time_seconds": None if plan.time is None else plan.time.seconds.to_json(),
            "cost": None if usd is None else usd.to_json() | {"currency": CURRENCY},
        }


def communication(plan: Planned) -> dict[str, int]:
    """Bytes of collectives in an optimizer step, in a node and between nodes."""
    found = {"in_node": 0, "between_nodes": 0}
    for traffic in plan.profile.communication:
        times = plan.setup.accumulation if traffic.every == "micro_batch" else 1
        found["between_nodes" if traffic.between_nodes else "in_node"] += traffic.size * times
    return found


def counts(text: str) -> list[int]:
    """``8..1024`` as 8, 16, … 1024, or ``8,16,64`` as it stands. Errors: :class:`UsageError`."""
    steps = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if steps and 1 <= int(steps[1]) <= int(steps[2]) <= 65_536:
        found = [int(steps[1])]
        while found[-1] * 2 <= int(steps[2]):
            found.append(found[-1] * 2)
        return found
    if re.fullmatch(r"\d{1,5}(,\d{1,5})*", text) and all(int(each) for each in text.split(",")):
        return sorted({int(each) for each in text.split(",")})
    raise UsageError(f"--scale {text}: is no range of GPUs, such as 8..1024 or 8,16,64")


def scale(plan: Planned, gpus: Sequence[int], say: Callable[[str], None]) -> list[Scaled]:
    """The same run on so many GPUs of its machine. Errors: :class:`ConfigError`."""
    machine = _machine(plan)
    found: list[Scaled] = []
    for count in gpus:
        target = Target(machine, count)
        if count > machine.gpus and count % machine.gpus:
            raise ConfigError(f"--scale: {count} GPUs are no whole number of {machine.name}")
        say(f"tracing {target.name}")
        keys = plan.keys.model_copy(update={"gpus": None, "gpu": None})
        tried = planned(plan.config, keys, plan.base, target, plan.data, plan.data_why)
        assert tried.step is not None
        first = found[0].plan if found else tried
        assert first.step is not None
        speed = first.step.seconds.expected / tried.step.seconds.expected
        found.append(Scaled(tried, speed, speed * first.target.gpus / count))
    return found


def stops_paying(rows: Sequence[Scaled]) -> int | None:
    """The number of GPUs beyond which more of them do not pay; None where all do."""
    for before, after in pairwise(rows):
        growth = after.plan.target.gpus / before.plan.target.gpus
        if before.speed / after.speed > PAYS ** (growth / 2):
            return before.plan.target.gpus
    return None


def _machine(plan: Planned) -> Machine:
    if plan.target.machine is None:
        raise ConfigError("plan.gpu: cpu is one machine; name a GPU to scale to many of")
    return plan.target.machine
