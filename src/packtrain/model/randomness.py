"""Keyed randomness: dropout and initial weights derive from what they are for, never from a stream.

So they do not depend on how a batch is split, on processes, or on what ran before; and activation
checkpointing recomputes the same masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def derived_seed(*parts: object) -> int:
    """63 bits that depend on all ``parts`` and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass
class Randomness:
    """What the dropout masks of the running micro-batch derive from; shared by all layers."""

    seed: int
    step: int = 0
    bins: Sequence[tuple[int, int, int]] = ()
    """(bin, start, end) of each bin in the flat sequence."""

    def keep_mask(self, shape: torch.Size, device: torch.device, layer: int, rate: float) -> Tensor:
        """[tokens, features], 0 where dropped and 1 / (1 - rate) where kept."""
        assert self.bins and self.bins[-1][2] == shape[0], (self.bins, shape)
        mask = torch.empty(shape, device=device)
        generator = torch.Generator(device)
        for bin_id, start, end in self.bins:
            generator.manual_seed(derived_seed("dropout", self.seed, self.step, bin_id, layer))
            mask[start:end].bernoulli_(1.0 - rate, generator=generator)
        return mask.div_(1.0 - rate)
