"""All that a plan answers, as plain data for ``--json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packtrain.plan.compare import Option, Scaled, communication, stops_paying
from packtrain.plan.cost import CURRENCY, Cost
from packtrain.plan.plan import Planned
from packtrain.plan.probe import hindrance
from packtrain.plan.suggest import Suggestion


@dataclass(frozen=True)
class Answer:
    plan: Planned
    suggestions: tuple[Suggestion, ...] = ()
    max_batch: int | None = None
    """The largest micro-batch; None where it was not asked for."""
    max_length: int | None = None
    options: Sequence[Option] | None = None
    scaled: Sequence[Scaled] | None = None

    @property
    def fits(self) -> bool:
        """Whether the run, or of several set-ups that were asked for any, fits."""
        others = [each.plan for each in self.options or ()] + [each.plan for each in self.scaled or ()]
        return any(plan.fits for plan in others) if others else self.plan.fits

    def to_json(self) -> dict[str, Any]:
        plan = self.plan
        found: dict[str, Any] = {
            "name": plan.config.name,
            "fits": plan.fits,
            "target": _target(plan),
            "setup": _setup(plan),
            "memory": _memory(plan),
            "data": _data(plan),
            "time": _time(plan),
            **_cost(plan.cost),
            "suggestions": [each.to_json() for each in self.suggestions],
        }
        if self.max_batch is not None:
            found["max_batch"] = self.max_batch
        if self.max_length is not None:
            found["max_length"] = self.max_length
        if self.options is not None:
            found["compare"] = [each.to_json() for each in self.options]
        if self.scaled is not None:
            found["scale"] = [each.to_json() for each in self.scaled]
            found["stops_paying_at"] = stops_paying(self.scaled)
        return found


def calibrated_on(plan: Planned) -> str:
    machine = plan.target.machine
    return "steps tried on this machine" if machine is None else machine.calibrated


def _target(plan: Planned) -> dict[str, Any]:
    target, machine = plan.target, plan.target.machine
    return {
        "machine": machine.name if machine else None,
        "gpu": machine.gpu_name if machine else None,
        "gpus": target.gpus,
        "nodes": target.nodes,
        "capacity": plan.config.cluster.capacity if machine else None,
    }


def _setup(plan: Planned) -> dict[str, Any]:
    setup = plan.setup
    named = ("sharding", "attention", "loss", "micro_batch", "length", "documents", "accumulation")
    return {name: getattr(setup, name) for name in (*named, "checkpointing", "dtype")} | {
        "adapter": setup.adapter.kind
    }


def _memory(plan: Planned) -> dict[str, Any]:
    profile = plan.profile
    return {
        "peak_bytes": profile.peak_bytes,
        "peak_phase": profile.peak_phase,
        "resident_bytes": profile.resident_bytes,
        "reserved_bytes": profile.reserved_bytes,
        "available_bytes": plan.target.memory,
        "by_kind": profile.by_kind,
    }


def _data(plan: Planned) -> dict[str, Any] | None:
    data = plan.data
    if data is None:
        return None
    return {
        "rows": None if data.streamed else data.rows,
        "tokens": None if data.streamed else data.tokens,
        "supervised": round(data.supervised, 4),
        "sequences": None if data.streamed else data.bins,
        "packing_efficiency": round(data.packing_efficiency, 4),
        "validation_tokens": data.validation_tokens,
        "sampled_rows": data.sampled_rows,
        "error": round(data.error, 4),
    }


def _time(plan: Planned) -> dict[str, Any]:
    time, step, data = plan.time, plan.step, plan.data
    return {
        "seconds": None if time is None else time.seconds.to_json(),
        "why": None if time is not None else time_why(plan),
        "parts": None if time is None else {name: each.to_json() for name, each in time.parts.items()},
        "steps": data.steps if data else None,
        "tokens": data.trained_tokens if data else None,
        "step_seconds": None if step is None else step.seconds.to_json(6),
        "tokens_per_second": None if plan.tokens_per_second is None else round(plan.tokens_per_second, 1),
        "flops_per_micro_batch": plan.profile.flops,
        "communication_bytes": communication(plan),
        "calibrated_on": calibrated_on(plan),
    }


def time_why(plan: Planned) -> str:
    """Why it is not known how long the run takes."""
    if plan.data is None:
        return f"time needs the tokenizer and the data: {plan.data_why}"
    if not plan.fits:
        return "it does not fit into this machine's memory, so no step was tried"
    return hindrance(plan.config) or "no step was tried"


def _cost(cost: Cost) -> dict[str, Any]:
    price, lost = cost.price, cost.preemptions
    return {
        "cost": None if cost.usd is None else cost.usd.to_json() | {"currency": CURRENCY},
        "cost_why": cost.why or None,
        "price": None
        if price is None
        else {
            "usd_per_hour": price.usd,
            "machine": price.machine,
            "capacity": price.capacity,
            "upper_bound": price.upper_bound,
            "region": price.region,
            "date": price.date,
            "source": price.source,
        },
        "preemptions": None
        if lost is None
        else {
            "expected": lost.expected.to_json(4),
            "per_node_and_day": lost.a_day.to_json(4),
            "source": lost.source,
            "lost_seconds": lost.lost.to_json(),
        },
    }
