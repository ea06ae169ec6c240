"""What a set-up needs at least, from what was traced before: what cannot fit need not be traced.

The shards of what stands become smaller with more GPUs; what comes and goes in a step does not, but for
the gradients. A larger micro-batch never needs less.
"""

from __future__ import annotations

from dataclasses import replace

from packtrain.plan import memory
from packtrain.plan.memory import StepProfile
from packtrain.plan.setup import Setup

#: Shards are padded, each number of GPUs otherwise: a bound is lowered by so much.
SURE = 0.98


def least_bytes(setup: Setup) -> int:
    """A lower bound of :attr:`StepProfile.reserved_bytes`; 0 where nothing alike was traced."""
    alike, shards = _alike(setup), _shards(setup)
    found = [
        _elsewhere(profile, _shards(known) / shards)
        for known, profile in memory.profiles.items()
        if known.micro_batch <= setup.micro_batch
        and known.accumulation <= setup.accumulation
        and _alike(known) == alike
    ]
    return round(SURE * max(found, default=0.0))


def _alike(setup: Setup) -> Setup:
    """What must be the same for one to tell of the other."""
    spread = setup.sharding if setup.sharding == "none" else "fsdp"
    gpus = 1 if setup.gpus == 1 else 2
    return replace(setup, sharding=spread, gpus=gpus, gpus_per_node=1, micro_batch=1, accumulation=1)


def _shards(setup: Setup) -> int:
    return {"none": 1, "fsdp": setup.gpus, "hsdp": setup.gpus_per_node}[setup.sharding]


def _elsewhere(profile: StepProfile, share: float) -> float:
    """With shards that are ``share`` of the size."""
    stands = profile.resident_bytes - profile.by_kind["workspaces"]
    comes = profile.reserved_bytes - stands - profile.by_kind.get("gradients", 0)
    return stands * share + comes
