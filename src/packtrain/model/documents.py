"""Attention on the CPU, a call a document, with a backward pass that writes each gradient where it belongs.

PyTorch's flash attention for the CPU does the work. What autograd would add is left out: a tensor of
zeros for each slice, copies of keys and values for each group of queries kept until the backward pass.

Shapes: U tokens, H query heads, K key/value heads, G = H / K, D head size, L one document's length,
P tokens that all documents begin with (:mod:`packtrain.model.prefix`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _pieces(bounds: list[int], shared: int) -> Iterator[tuple[int, int, int]]:
    """Start and end of each document's own tokens, and how many come before them."""
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        yield start, end, shared if number else 0


def _heads(x: Tensor, start: int, end: int, before: int, groups: int = 1) -> Tensor:
    """[1, H, L, D] of a document: tokens 0 … ``before`` and ``start`` … ``end`` of ``x`` [U, K, D]."""
    part = torch.cat([x[:before], x[start:end]]) if before else x[start:end]
    if groups > 1:
        part = part.repeat_interleave(groups, dim=1)
    return part.transpose(0, 1).unsqueeze(0)


class Documents(torch.autograd.Function):
    """Causal attention: query [U, H, D], key and value [U, K, D] → [U, H, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: list[int], shared: int, scale: float
    ) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        sizes = []
        for start, end, before in _pieces(bounds, shared):
            q, k, v = (
                _heads(each, start, end, before, count)
                for each, count in ((query, 1), (key, groups), (value, groups))
            )
            attended, size = _forward(q, k, v, 0.0, True, scale=scale)
            out[start:end] = attended[0, :, before:].transpose(0, 1)
            sizes.append(size)
        ctx.save_for_backward(query, key, value, out, *sizes)
        ctx.settings = bounds, shared, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        query, key, value, out, *sizes = ctx.saved_tensors
        bounds, shared, scale = ctx.settings
        heads, head = key.shape[1], key.shape[2]
        groups = query.shape[1] // heads
        # The first document writes the shared tokens' gradients, the others add to them.
        query_grad, key_grad, value_grad = (
            torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (query, key, value)
        )
        for (start, end, before), size in zip(_pieces(bounds, shared), sizes, strict=True):
            arrived = _heads(grad, start, end, before)
            if before:
                # Of what the shared tokens themselves gave, the first document sends it all back.
                arrived[:, :, :before] = 0
            q, k, v, o = (
                _heads(each, start, end, before, count)
                for each, count in ((query, 1), (key, groups), (value, groups), (out, 1))
            )
            found = _backward(arrived, q, k, v, o, size, 0.0, True, scale=scale)
            query_grad[start:end] = found[0][0, :, before:].transpose(0, 1)
            for each, into in zip(found[1:], (key_grad, value_grad), strict=True):
                summed = each[0].unflatten(0, (heads, groups)).sum(1) if groups > 1 else each[0]
                by_token = summed.view(heads, -1, head).transpose(0, 1)
                into[start:end] = by_token[before:]
                if before:
                    into[:before] += by_token[:before]
        return query_grad, key_grad, value_grad, None, None, None
