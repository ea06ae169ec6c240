"""Attention over packed documents as the textbook has it, which the fast ways are held to."""

from __future__ import annotations

import torch


def dense_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: list[int],
    scale: float,
    window: int | None,
    softcap: float | None = None,
) -> torch.Tensor:
    """The textbook: one mask for all, in fp64."""
    total = query.shape[2]
    place = torch.arange(total)
    document = torch.bucketize(place, torch.tensor(bounds[1:]), right=True)
    seen = (document[:, None] == document[None]) & (place[:, None] >= place[None])
    if window is not None:
        seen &= place[:, None] - place[None] < window
    groups = query.shape[1] // key.shape[1]
    keys, values = (x.double().repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query.double() @ keys.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    whole: torch.Tensor = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ values
    return whole
