"""What would make a run fit: each change is tried by the same tracer before it is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pydantic import ValidationError

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.plan.auto import hopeless
from packtrain.plan.bound import least_bytes
from packtrain.plan.cost import Cost
from packtrain.plan.interval import Interval
from packtrain.plan.machines import Machine, machines, price_per_hour
from packtrain.plan.memory import largest, standing_bytes
from packtrain.plan.options import PlanKeys
from packtrain.plan.plan import Planned, make_setup, planned
from packtrain.plan.target import Target

#: A shorter length than this is none to train with.
SHORTEST, LENGTH_STEP = 256, 128
MOST_NODES = 16
#: So many other machines are named.
MOST_MACHINES = 3
#: The smallest work of a GPU that does the same training.
SMALL = ("train.micro_batch=1", "train.activation_checkpointing=true")


@dataclass(frozen=True)
class Suggestion:
    sentence: str
    overrides: tuple[str, ...]
    """For ``-s``."""
    peak_bytes: int
    reserved_bytes: int
    seconds: Interval | None
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        usd = self.cost.usd
        return {
            "change": self.sentence,
            "set": list(self.overrides),
            "peak_bytes": self.peak_bytes,
            "reserved_bytes": self.reserved_bytes,
            "time_seconds": None if self.seconds is None else self.seconds.to_json(),
            "cost_usd": None if usd is None else usd.to_json(),
        }


Candidate = tuple[str, tuple[str, ...], Target]
"""A sentence, what to set, and where it is then run."""


def suggestions(plan: Planned, say: Callable[[str], None], many: int | None = None) -> tuple[Suggestion, ...]:
    """The first ``many`` changes with each of which the run fits, the least change first.

    None of them for a run that fits already.
    """
    if plan.fits:
        return ()
    say("looking for what would make it fit")
    return tuple(islice(_all(plan), many))


def _all(plan: Planned) -> Iterator[Suggestion]:
    yield from _fitting(plan, _less(plan))
    if plan.target.machine is not None:
        yield from islice(_fitting(plan, _more_nodes(plan.target, plan.target.machine)), 1)
    if plan.config.adapter.kind == "lora":
        quantised = ("the base in 4 bits (QLoRA)", ("adapter.kind=qlora",), plan.target)
        yield from _fitting(plan, [quantised])
    yield from islice(_fitting(plan, _other_machines(plan)), MOST_MACHINES)


def _fitting(plan: Planned, candidates: Iterable[Candidate]) -> Iterator[Suggestion]:
    """Those that fit, as they are or with the smallest work of a GPU."""
    standing = standing_bytes(plan.setup)
    for sentence, changes, target in candidates:
        quantised = "adapter.kind=qlora" in changes
        if not quantised and hopeless(standing, target.gpus, target.memory):
            continue  # not even the weights would fit: nothing to trace
        for overrides in (changes, (*changes, *SMALL)):
            tried = _tried(plan, overrides, target)
            if tried is not None and tried.fits:
                yield _suggestion(sentence, overrides, tried)
                break
            if tried is None or (tried.setup.micro_batch == 1 and tried.setup.checkpointing):
                break  # it was the smallest work already


def _less(plan: Planned) -> Iterator[Candidate]:
    """On the same machines, less at a time."""
    target, setup = plan.target, plan.setup
    if hopeless(standing_bytes(setup), setup.gpus, target.memory):
        return  # however little is done
    if not setup.checkpointing:
        yield "compute activations again", ("train.activation_checkpointing=true",), target
    smaller = largest(setup, target.memory)
    if 0 < smaller < setup.micro_batch:
        yield f"micro-batches of {smaller}", (f"train.micro_batch={smaller}",), target
    elif not smaller and not setup.checkpointing:
        small = largest(replace(setup, checkpointing=True), target.memory)
        if small:
            changes = (f"train.micro_batch={small}", "train.activation_checkpointing=true")
            yield f"micro-batches of {small}, and activations computed again", changes, target
    shorter = largest(replace(setup, micro_batch=1, checkpointing=True), target.memory, "length")
    shorter = min(shorter, setup.length - 1) // LENGTH_STEP * LENGTH_STEP
    if not smaller and shorter >= SHORTEST:
        yield f"sequences of {shorter:,} tokens", (f"data.max_length={shorter}", *SMALL), target


def _more_nodes(target: Target, machine: Machine) -> Iterator[Candidate]:
    """The fewest that fit are the ones to say."""
    nodes = target.nodes * 2
    while nodes <= MOST_NODES:
        changes = (f"cluster.nodes={nodes}", "train.parallel=fsdp")
        yield f"{nodes} nodes", changes, Target(machine, nodes * machine.gpus)
        nodes *= 2


def _other_machines(plan: Planned) -> Iterator[Candidate]:
    """One node of each, the cheapest first; those without a price last."""
    cluster = plan.config.cluster

    def price(machine: Machine) -> float:
        usd = price_per_hour(machine, cluster.capacity, cluster.location).usd
        return float("inf") if usd is None else usd

    own = plan.target.machine
    seen = set()
    for machine in sorted(machines().values(), key=price):
        kind = (machine.gpu, machine.gpus)
        weaker = own is not None and machine.gpus * machine.gpu_memory <= plan.target.gpus * own.gpu_memory
        if kind not in seen and not weaker and machine.memory >= machine.gpus * machine.gpu_memory:
            seen.add(kind)
            changes = (f"cluster.machine={machine.name}", "cluster.nodes=1")
            yield (
                f"{machine.name} ({machine.gpus} × {machine.gpu_name})",
                changes,
                Target(machine, machine.gpus),
            )


def _tried(plan: Planned, overrides: Sequence[str], target: Target) -> Planned | None:
    """The plan with these changes; None where there is no such set-up, or it is known not to fit."""
    try:
        config = changed(plan.config, overrides)
    except (ConfigError, ValidationError):
        return None
    # What the keys said about this is said by the changes now.
    keys = _without(plan.keys, overrides)
    try:
        setup = make_setup(config, keys, plan.base, target, plan.data)
        if least_bytes(replace(setup, micro_batch=1, checkpointing=True)) > target.memory:
            return None
        return planned(config, keys, plan.base, target, plan.data, plan.data_why, probing=False)
    except ConfigError:
        return None


def _without(keys: PlanKeys, overrides: Sequence[str]) -> PlanKeys:
    said = {override.partition("=")[0] for override in overrides}
    gone: dict[str, Any] = {}
    if "train.micro_batch" in said:
        gone["micro_batch"] = None
    if "train.activation_checkpointing" in said:
        gone["checkpointing"] = None
    if said & {"cluster.machine", "cluster.nodes"}:
        gone |= {"gpu": None, "gpus": None, "sharding": None}
    return keys.model_copy(update=gone)


def changed(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """``config`` with ``KEY=VALUE`` set. Errors: pydantic's ValidationError."""
    from packtrain.runfile.document import override_key, override_value

    data = config.model_dump()
    for override in overrides:
        *sections, last = override_key(override).split(".")
        target = data
        for section in sections:
            target = target[section]
        target[last] = override_value(override)
    return RunConfig.model_validate(data)


def _suggestion(sentence: str, overrides: Sequence[str], plan: Planned) -> Suggestion:
    small = set(SMALL) & set(overrides) and not sentence.startswith(("micro", "compute", "sequences"))
    return Suggestion(
        sentence + (", in micro-batches of 1" if small else ""),
        tuple(overrides),
        plan.profile.peak_bytes,
        plan.profile.reserved_bytes,
        None if plan.time is None else plan.time.seconds,
        plan.cost,
    )
