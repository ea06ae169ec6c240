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
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Over all ``bins`` of ``rows``, ``micro_batch`` bins at a time.

    ``on_batch(bins done, bins in all)`` is called after each; it may raise to stop.
    """
    total, tokens = 0.0, 0
    for start in range(0, len(bins), micro_batch):
        ids = range(start, min(start + micro_batch, len(bins)))
        batch = collate(rows, bins, ids).to(device)
        total += float(loss(batch))
        tokens += len(batch.targets)
        on_batch(ids.stop, len(bins))
    return Evaluation(total / max(1, tokens), tokens)
