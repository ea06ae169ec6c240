"""What a training step needs of each GPU, traced from the real graph without weights.

The model that would be trained (transformers' definition, our adapter, loss, sharding, checkpointing and
optimizer) runs one step on tensors that have shapes and no content, with a few layers; every
allocation is counted, and what a layer adds is added for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from packtrain.plan.setup import Setup


@dataclass(frozen=True)
class Traffic:
    """What one collective moves; ``size`` bytes whole, on each of ``ranks`` GPUs."""

    kind: Literal["all_gather", "reduce_scatter", "all_reduce"]
    ranks: int
    """GPUs that take part."""
    between_nodes: bool
    """Whether they stand in several nodes."""
    every: Literal["micro_batch", "step"]
    calls: int
    size: int
    """Bytes of all calls together: of the gathered (or not yet scattered) tensor."""


@dataclass(frozen=True)
class StepProfile:
    """One micro-batch and the optimizer's step, on one GPU of the set-up."""

    peak_bytes: int
    """The most that stands allocated at once (as `torch.cuda.max_memory_allocated` counts)."""
    reserved_bytes: int
    """What the device must have: the peak, what the allocator loses, and what is not PyTorch's."""
    resident_bytes: int
    """What stands between two steps."""
    by_kind: dict[str, int]
    """The peak by kind: weights, adapter, gradients, optimizer, activations, logits_and_loss,
    all_gather, workspaces; `context` is in `reserved_bytes` alone."""
    peak_phase: str
    """When the peak comes, such as `backward of layer 31` or `loss`."""
    flops: float
    """Of one micro-batch, forward and backward, with what checkpointing computes again."""
    communication: tuple[Traffic, ...]
    layers_traced: tuple[int, ...]


def trace(setup: Setup) -> StepProfile:
    """Trace one step. Pure, and remembered in the process. Errors: :class:`ConfigError`."""
    raise AssertionError(setup)


def largest(setup: Setup, limit_bytes: int, what: Literal["micro_batch", "length"] = "micro_batch") -> int:
    """The largest ``what`` whose `reserved_bytes` is within ``limit_bytes``; 0 where none is."""
    raise AssertionError(setup, limit_bytes, what)


def standing_bytes(setup: Setup) -> int:
    """What each device would hold without sharding, as :func:`packtrain.run.settings.standing_bytes`."""
    raise AssertionError(setup)
