"""What all documents of a batch begin with, computed once.

Rows of one chat template begin alike: with the default system prompt (24 tokens of SmolLM2's), or at
least with the header of the first turn. A causal model makes the same of the same beginning, so the
linear layers see it once, as part of the first document; attention gives it to every document, and
its gradient is the sum of what all of them send back. Nothing is approximated.

Shapes: T tokens of the documents laid out whole, U of them after sharing, N documents, P shared tokens.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from packtrain.data.batches import MicroBatch

#: Share of the tokens that must be saved: below it the bookkeeping of attention costs as much.
WORTH = 0.03


def share_prefix(batch: MicroBatch) -> tuple[MicroBatch, int]:
    """``batch`` (on the CPU) with its documents' common beginning once, and P: 0 where it does not pay.

    Bounds are then of the documents without the beginning, but for the first, which has it.
    """
    bounds = batch.cu_seqlens.numpy()
    shared = common_prefix(batch.input_ids.numpy(), bounds)
    documents = len(bounds) - 1
    if shared * (documents - 1) < WORTH * bounds[-1]:
        return batch, 0
    positions = batch.position_ids.numpy()
    later = np.arange(bounds[-1]) >= bounds[1]
    kept = ~(later & (positions < shared))
    place = np.where(kept, np.cumsum(kept) - 1, positions)
    keep = torch.from_numpy(np.flatnonzero(kept))
    begins = bounds - shared * np.maximum(0, np.arange(documents + 1) - 1)
    laid = replace(
        batch,
        input_ids=batch.input_ids[keep],
        position_ids=batch.position_ids[keep],
        cu_seqlens=torch.from_numpy(begins.astype(np.int32)),
        target_positions=torch.from_numpy(place[batch.target_positions.numpy()]),
    )
    return laid, shared


def common_prefix(tokens: np.ndarray, bounds: np.ndarray) -> int:
    """How many tokens all documents begin with; at least one of each is its own."""
    shortest = int(np.diff(bounds).min()) - 1
    heads = tokens[bounds[:-1, None] + np.arange(shortest)]
    differs = (heads != heads[0]).any(axis=0)
    return int(differs.argmax()) if differs.any() else shortest


def laid_out(bounds: list[int], shared: int) -> tuple[list[int], list[int], list[int]]:
    """``(whole, own, bounds)`` of documents that share a beginning.

    ``whole`` [T]: the place of each token of the documents laid out whole; ``own`` [U]: where in that
    lie the tokens that were computed; and the bounds [N+1] of the whole documents.
    """
    whole: list[int] = []
    own: list[int] = []
    ends = [0]
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        before = list(range(shared)) if number else []
        own += range(len(whole) + len(before), len(whole) + len(before) + end - start)
        whole += [*before, *range(start, end)]
        ends.append(len(whole))
    return whole, own, ends


def attend_whole(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, shared: int
) -> tuple[Tensor, ...]:
    """Queries, keys, values [1, H, T, D] of whole documents, their bounds, and ``own`` [U] to pick by."""
    whole, own, ends = laid_out(bounds.tolist(), shared)
    device = query.device
    places = torch.tensor(whole, device=device)
    query, key, value = (each.index_select(2, places) for each in (query, key, value))
    ends_of = torch.tensor(ends, dtype=bounds.dtype, device=device)
    return query, key, value, ends_of, torch.tensor(own, device=device)
