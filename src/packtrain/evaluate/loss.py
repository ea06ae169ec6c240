"""Validation loss: the mean over all supervised tokens of held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from packtrain.data.batches import collate
from packtrain.data.tokenized import TokenizedRows
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import World


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Nats a supervised token."""
    supervised_tokens: int

    @property
    def perplexity(self) -> float:
        """e to the loss; infinity where that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def evaluate_loss(
    loss: CausalLoss,
    rows: TokenizedRows,
    bins: Sequence[np.ndarray],
    *,
    micro_batch: int,
    device: torch.device,
    world: World,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Over all ``bins`` of ``rows``, ``micro_batch`` bins at a time on each rank; all get the result.

    ``on_batch(bins done, bins in all)`` is called after each turn, as often on every rank; it may
    raise to stop.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    each = micro_batch * world.size
    for start in range(0, len(bins), each):
        ids = range(start, min(start + each, len(bins)))
        own = ids[world.rank :: world.size]
        # A rank without a bin of its own still takes part: the others may need its shards.
        batch = collate(rows, bins, own or ids[:1]).to(device)
        total = float(loss(batch))
        if own:
            sums += torch.tensor([total, len(batch.targets)], dtype=torch.float64)
        on_batch(ids.stop, len(bins))
    total, tokens = world.sum(sums.to(device)).tolist()
    return Evaluation(total / max(1, tokens), int(tokens))
