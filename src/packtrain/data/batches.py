"""Which bins an optimizer step trains on, and those bins as flat tensors.

The order of an epoch is a function of (seed, epoch) alone, and a step's bins of (seed, step): a
resumed run asks for step 1,001 and gets what an uninterrupted one would have got, without going
through the thousand before it.

Shapes: T tokens of a micro-batch, N documents (rows) in it, S supervised tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from packtrain.data.shuffle import drawn_order
from packtrain.data.tokenized import TokenizedRows

if TYPE_CHECKING:
    import torch

Indices = npt.NDArray[np.int64]


class Bins(Protocol):
    """Row indices of each packed sequence, by its id."""

    def __getitem__(self, bin_id: int, /) -> Indices: ...


class Epochs(Bins, Protocol):
    """The same where every epoch has its own: their ids are from ``epoch × stride`` on."""

    stride: int

    def tokens(self, epoch: int) -> Indices:
        """Tokens of each sequence of an epoch; as many sequences as in the first one at least."""


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, bins: int) -> Indices:
    """The bins [bins] of an epoch (from 0) in the order in which they are trained on; read-only."""
    order = drawn_order(seed, epoch, bins)
    order.flags.writeable = False
    return order


class Plan(Protocol):
    """The optimizer steps of a run."""

    @property
    def steps(self) -> int:
        """Of the whole run; at least 1."""

    @property
    def most_bins(self) -> int:
        """Bins of the largest batch."""

    def batch(self, step: int) -> Indices:
        """Bin ids of optimizer step 1..steps."""

    def epoch_at(self, step: int) -> float:
        """Epochs done after ``step`` steps."""


@dataclass(frozen=True)
class BatchPlan:
    """The optimizer steps of a run. An epoch is cut into equal batches of about ``batch_tokens``."""

    bin_tokens: Indices
    """Tokens of each bin [bins]; of the first epoch, where they differ."""
    batch_tokens: int
    epochs: float
    seed: int
    max_steps: int | None = None
    own: Epochs | None = None
    """What each epoch has, where they differ."""

    def __post_init__(self) -> None:
        assert len(self.bin_tokens), "a plan needs at least one bin"

    @cached_property
    def steps_per_epoch(self) -> int:
        wanted = math.ceil(int(self.bin_tokens.sum()) / self.batch_tokens)
        return max(1, min(wanted, len(self.bin_tokens)))

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole run; at least 1."""
        # 0.1 + 0.2 epochs are not meant to round up to one step more.
        wanted = max(1, math.ceil(self.epochs * self.steps_per_epoch - 1e-6))
        return wanted if self.max_steps is None else min(wanted, self.max_steps)

    def batch(self, step: int) -> Indices:
        """Bin ids of optimizer step 1..steps."""
        if not 1 <= step <= self.steps:
            raise IndexError(f"step {step} is not one of 1..{self.steps}")
        epoch, part = divmod(step - 1, self.steps_per_epoch)
        cuts = self._cuts(epoch)
        order = epoch_order(self.seed, epoch, int(cuts[-1]))
        chosen: Indices = order[cuts[part] : cuts[part + 1]]
        return chosen if self.own is None else chosen + epoch * self.own.stride

    @cached_property
    def most_bins(self) -> int:
        """Bins of the largest batch of the run."""
        whole, rest = divmod(self.steps, self.steps_per_epoch)
        sizes = [np.diff(self._cuts(epoch)).max() for epoch in range(whole)]
        if rest:
            sizes.append(np.diff(self._cuts(whole)[: rest + 1]).max())
        return int(max(sizes))

    def epoch_at(self, step: int) -> float:
        """Epochs done after ``step`` steps."""
        return step / self.steps_per_epoch

    def _cuts(self, epoch: int) -> Indices:
        """Where the order of ``epoch`` is cut into batches: [steps_per_epoch + 1].

        Kept for one epoch: its steps come one after another, and each would go through all bins.
        """
        if epoch not in self._kept_cuts:
            tokens = self.bin_tokens if self.own is None else self.own.tokens(epoch)
            order = epoch_order(self.seed, epoch, len(tokens))
            self._kept_cuts.clear()
            self._kept_cuts[epoch] = near_equal_cuts(tokens[order], self.steps_per_epoch)
        return self._kept_cuts[epoch]

    @cached_property
    def _kept_cuts(self) -> dict[int, Indices]:
        return {}


def near_equal_cuts(tokens: Indices, parts: int) -> Indices:
    """Where to cut bins of these sizes into ``parts`` near-equal batches, none empty: [parts + 1]."""
    done = np.r_[0, np.cumsum(tokens)]
    wanted = done[-1] * np.arange(1, parts) / parts
    after = np.searchsorted(done, wanted)
    nearest = after - (wanted - done[after - 1] < done[after] - wanted)
    # Strictly rising, and enough bins left for the batches that follow.
    number = np.arange(1, parts)
    rising = np.maximum.accumulate(np.maximum(nearest, 1) - number) + number
    inner = np.minimum(rising, len(tokens) - parts + number)
    return np.array([0, *inner.tolist(), len(tokens)], dtype=np.int64)


def micro_batches(bin_ids: Indices, size: int) -> Iterator[Indices]:
    """A step's bins in parts of ``size`` bins; the last may be smaller."""
    assert size >= 1
    for start in range(0, len(bin_ids), size):
        yield bin_ids[start : start + size]


@dataclass(frozen=True)
class MicroBatch:
    """Documents laid one after another: no padding, and none sees another."""

    input_ids: torch.Tensor
    """int64 [T]."""
    position_ids: torch.Tensor
    """int64 [T], from 0 in each document."""
    cu_seqlens: torch.Tensor
    """int32 [N + 1]: where documents begin, and T."""
    target_positions: torch.Tensor
    """int64 [S]: the positions whose hidden state predicts a supervised token."""
    targets: torch.Tensor
    """int64 [S]: those tokens."""
    bins: tuple[tuple[int, int, int], ...]
    """(bin id, first token, the one after its last) of each bin."""
    rows: Indices
    """[N]: the row of each document."""
    longest: int
    """Tokens of the longest document."""
    weights: torch.Tensor | None = None
    """float32 [S]: what the loss of each target counts; None where all count 1."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same with its tensors on ``device``; the host does not wait until they are there."""
        if device.type == "cpu":
            return self
        moved = {
            name: getattr(self, name).pin_memory().to(device, non_blocking=True)
            for name in ("input_ids", "position_ids", "cu_seqlens", "target_positions", "targets", "weights")
            if getattr(self, name) is not None
        }
        return replace(self, **moved)


def collate(rows: TokenizedRows, bins: Bins, bin_ids: Sequence[int] | Indices) -> MicroBatch:
    """The bins ``bin_ids`` of ``bins`` (row indices each) as one flat micro-batch.

    A supervised token at t > 0 of a document is predicted by position t - 1; the first token of a
    document has nothing to be predicted from.
    """
    import torch

    documents = np.concatenate([bins[int(bin_id)] for bin_id in bin_ids])
    lengths = rows.lengths[documents]
    bounds = np.r_[0, np.cumsum(lengths)]
    # The source of each token: its row's offset plus its place in the row.
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    source = positions + np.repeat(rows.starts[documents], lengths)
    tokens = rows.tokens[source].astype(np.int64)
    predicted = np.flatnonzero(rows.supervised[source] & (positions > 0))
    last_documents = np.cumsum([len(bins[int(bin_id)]) for bin_id in bin_ids])
    ends = bounds[last_documents].tolist()
    weights = None
    if rows.weights is not None:
        each = rows.weights[documents].astype(np.float32)
        weights = torch.from_numpy(np.repeat(each, rows.targets[documents]))
    return MicroBatch(
        input_ids=torch.from_numpy(tokens),
        position_ids=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(bounds.astype(np.int32)),
        target_positions=torch.from_numpy(predicted - 1),
        targets=torch.from_numpy(tokens[predicted]),
        bins=tuple(
            (int(bin_id), start, end)
            for bin_id, start, end in zip(bin_ids, [0, *ends[:-1]], ends, strict=True)
        ),
        rows=documents,
        longest=int(lengths.max()),
        weights=weights,
    )
