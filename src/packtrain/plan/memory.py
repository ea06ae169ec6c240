"""What a training step needs of each GPU, traced from the real graph without weights.

The model that would be trained (transformers' definition, our adapter, loss, sharding, checkpointing and
optimizer) runs one step on tensors that have shapes and no content, with a few layers; every
allocation is counted, and what a layer adds is added for the others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from packtrain.plan.companion import observe_both
from packtrain.plan.cut import Line, cut
from packtrain.plan.setup import Setup

if TYPE_CHECKING:
    from packtrain.plan.graph import Observed

#: cuBLAS' workspace for one stream (`getChosenWorkspaceSize`, aten/src/ATen/cuda/CublasHandlePool.cpp), and
#: on how many PyTorch calls it: the forward pass' thread and the backward pass'.
CUBLAS_WORKSPACE, CUBLAS_HANDLES = 8_519_680, 2
#: What a process takes of a GPU before its first tensor: CUDA's context and the libraries' kernels. The
#: constant part of nvidia-smi's figure less PyTorch's peak in fms-acceleration's rows, 0.74 to 0.80 GB.
CONTEXT = 800_000_000
#: What PyTorch's allocator holds beyond what is asked of it, as a share of what comes and goes in a step: the
#: part of the same difference that grows with the batch, 7.5 to 11.5 %.
ALLOCATOR_SHARE = 0.115
#: NCCL's buffers and the contexts of its peers, where there are several GPUs. An assumption: no figure is
#: published; NCCL_BUFFSIZE is 4 MiB for each channel and peer.
NCCL = 800_000_000
#: `largest` answers lengths in steps of so many tokens.
LENGTH_STEP = 64
#: Tokens of a micro-batch of which a trace takes seconds.
MANY = 1 << 18
MOST = {"micro_batch": 1 << 16, "length": 1 << 20}


@dataclass(frozen=True)
class Traffic:
    """What one kind of collective moves; ``size`` bytes whole, on each of ``ranks`` GPUs."""

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
    """When the peak comes, such as `backward of layer 32 of 32` or `loss`."""
    flops: float
    """Of one micro-batch, forward and backward, with what checkpointing computes again."""
    communication: tuple[Traffic, ...]
    layers_traced: tuple[int, ...]


#: What this process has traced.
profiles: dict[Setup, StepProfile] = {}


def trace(setup: Setup) -> StepProfile:
    """Trace one step. Pure, and remembered in the process. Errors: :class:`ConfigError`."""
    if setup not in profiles:
        profiles[setup] = _apart(setup) if _in_a_group() else _traced(setup)
    return profiles[setup]


def _traced(setup: Setup) -> StepProfile:
    line = _observed(_alike(setup))
    (what, layer), most = max(line.peaks().items(), key=lambda item: item[1]["total"])
    total = most.pop("total")
    workspaces = CUBLAS_WORKSPACE * CUBLAS_HANDLES if setup.device == "cuda" else 0
    resident = line.told([one.resident for one in line.observed]) + workspaces
    total += workspaces
    by_kind = {kind: size for kind, size in sorted(most.items()) if size > 0} | {"workspaces": workspaces}
    return StepProfile(
        peak_bytes=total,
        reserved_bytes=total + (_lost(setup, total - resident) if setup.device == "cuda" else 0),
        resident_bytes=resident,
        by_kind=by_kind,
        peak_phase=what if layer < 0 else f"{what} of layer {layer + 1} of {setup.layers}",
        flops=line.told([one.flops for one in line.observed]),
        communication=tuple(_traffic(line, setup)),
        layers_traced=tuple(sorted({one.layers for one in line.observed})),
    )


def _lost(setup: Setup, changing: int) -> int:
    """Bytes of a GPU that are not PyTorch's to give."""
    several = NCCL if setup.gpus > 1 else 0
    return CONTEXT + several + round(ALLOCATOR_SHARE * max(0, changing))


def _in_a_group() -> bool:
    """Whether this process is one of several that train: the traced group would take the real one's place."""
    import torch.distributed as dist

    return bool(dist.is_available() and dist.is_initialized())


def _apart(setup: Setup) -> StepProfile:
    """The same in a process of its own."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(trace, setup).result()


def _alike(setup: Setup) -> Setup:
    """The smallest set-up whose first GPU does the same step: what is known of it need not be traced again.

    Gradients are added up from the second micro-batch on, however many there are; and how often the whole
    model, or a node's shards of it, are there once more does not change one of them (:func:`_stretched`).
    """
    same = replace(setup, accumulation=min(2, setup.accumulation))
    if setup.gpus > 1 and setup.sharding == "none":
        return replace(same, gpus=2, gpus_per_node=1)
    if setup.sharding == "hsdp" and setup.gpus > 2 * setup.gpus_per_node:
        return replace(same, gpus=2 * setup.gpus_per_node)
    return replace(same, gpus_per_node=setup.gpus) if setup.sharding == "fsdp" else same


def _stretched(ranks: tuple[int, ...], setup: Setup) -> tuple[int, ...]:
    """Who takes part in ``setup`` where ``ranks`` do in :func:`_alike`."""
    same = _alike(setup)
    each = same.gpus_per_node
    if setup.gpus == same.gpus or len({rank // each for rank in ranks}) == 1:
        return ranks
    members = sorted({rank % each for rank in ranks})
    return tuple(start + rank for start in range(0, setup.gpus, each) for rank in members)


@functools.lru_cache(maxsize=256)
def _observed(setup: Setup) -> Line:
    """The step with a few of the layers, and with some more."""
    from packtrain.plan.graph import observe

    found = cut(setup)
    if len(found.grown) == 1:
        return Line(found, observe_both(found.base, found.grown[0]))
    return Line(found, tuple(observe(*one) for one in (found.base, *found.grown)))


_KINDS: dict[str, Literal["all_gather", "reduce_scatter", "all_reduce"]] = {
    "allgather": "all_gather",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "allreduce": "all_reduce",
    "all_reduce": "all_reduce",
}

_Key = tuple[Literal["all_gather", "reduce_scatter", "all_reduce"], int, bool, Literal["micro_batch", "step"]]


def _traffic(line: Line, setup: Setup) -> Iterator[Traffic]:
    sums = [_sums(one, setup) for one in line.observed]
    for key in sorted({key for each in sums for key in each}):
        calls, size = (line.told([each.get(key, (0, 0))[i] for each in sums]) for i in (0, 1))
        yield Traffic(*key, calls=calls, size=size)


def _sums(observed: Observed, setup: Setup) -> dict[_Key, tuple[int, int]]:
    """(calls, bytes) by kind of collective."""
    sums: dict[_Key, tuple[int, int]] = {}
    for call in observed.calls:
        kind = next((kind for part, kind in _KINDS.items() if part in call.name), None)
        if kind is None:
            continue
        ranks = _stretched(call.ranks, setup)
        nodes = {rank // setup.gpus_per_node for rank in ranks}
        every: Literal["micro_batch", "step"] = "step" if call.phase == "optimizer" else "micro_batch"
        key = (kind, len(ranks), len(nodes) > 1, every)
        calls, size = sums.get(key, (0, 0))
        sums[key] = (calls + 1, size + call.size)
    return sums


def largest(
    setup: Setup,
    limit_bytes: int,
    what: Literal["micro_batch", "length"] = "micro_batch",
    below: int | None = None,
) -> int:
    """The largest ``what`` (less than ``below``) whose `reserved_bytes` is within ``limit_bytes``; 0 where
    none is.

    Lengths in steps of :data:`LENGTH_STEP`. The memory is nearly a line, so that a few traces find it; beyond
    :data:`MANY` tokens, where the loss' many parts make a trace take minutes, it is taken for one.
    """
    step = LENGTH_STEP if what == "length" else 1

    def traced(times: int) -> int:
        size = times * step
        larger = replace(setup, length=size) if what == "length" else replace(setup, micro_batch=size)
        return trace(larger).reserved_bytes

    many = max(2, MANY // step // (setup.micro_batch if what == "length" else setup.length))

    def needed(times: int) -> int:
        if times <= many:
            return traced(times)
        few, most = traced(many // 2), traced(many)
        return most + (most - few) * (times - many) // (many - many // 2)

    most = MOST[what] if below is None else below - 1
    good, bad = 0, most // step + 1
    known: dict[int, int] = {}
    guess = 1
    while bad - good > 1:
        known[guess] = needed(guess)
        if known[guess] <= limit_bytes:
            good = guess
        else:
            bad = guess
        guess = min(max(_crossing(known, limit_bytes), good + 1), bad - 1)
    return good * step


def _crossing(known: dict[int, int], limit: int) -> int:
    """Where a line through the two nearest known points meets the limit."""
    if len(known) < 2:
        return 8 * max(known)
    (x, y), (other_x, other_y) = sorted(known.items(), key=lambda point: abs(point[1] - limit))[:2]
    slope = (other_y - y) / (other_x - x)
    return int(x + (limit - y) / slope) if slope > 0 else 2 * max(x, other_x)


def standing_bytes(setup: Setup) -> int:
    """What each device would hold without sharding, as :func:`packtrain.run.settings.standing_bytes`:
    the base as its files hold it, or 16 bytes for each of the weights that are all trained."""
    from packtrain.plan.build import parameters, stored_size

    return parameters(setup) * (16 if setup.adapter.kind == "none" else stored_size(setup))
