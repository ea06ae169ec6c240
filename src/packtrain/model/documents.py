"""Attention on the CPU, document by document, as products of small blocks; the backward pass written out.

A block of queries meets the keys that it may see and no others, so that little of what the causal
mask forbids is computed; the queries of a group of heads are rows of one product with the keys that
they share, which are thus never repeated. Scores are made again in the backward pass in place of
kept: nothing of size L² is ever there. PyTorch's flash attention for the CPU skips nothing of
documents below 512 tokens, and wants a copy of keys and values for each query head.

Shapes: U tokens, H query heads, K key/value heads, G = H / K, D head size, L one document's length,
b queries of a block, P tokens that all documents begin with (:mod:`packtrain.model.prefix`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: Queries of a block: at most, at least, and how many scores (over all heads) are aimed at, which is
#: what a cache holds. Fewer queries waste less on what the mask forbids, and make slower products.
MOST, LEAST, SCORES = 64, 32, 1 << 20


def _pieces(bounds: list[int], shared: int) -> Iterator[tuple[int, int, int]]:
    """Start and end of each document's own tokens, and how many come before them."""
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        yield start, end, shared if number else 0


def _blocks(start: int, end: int, before: int, heads: int) -> Iterator[tuple[int, int, int]]:
    """First and last query of each block, and how many of the document's keys the last one sees."""
    size = min(MOST, max(LEAST, SCORES // (heads * (before + end - start))))
    for first in range(start, end, size):
        last = min(end, first + size)
        yield first, last, before + last - start


def _by_head(x: Tensor, start: int, end: int, before: int) -> Tensor:
    """[K, L, D] of a document: tokens 0 … ``before`` and ``start`` … ``end`` of ``x`` [U, K, D]."""
    part = torch.cat([x[:before], x[start:end]]) if before else x[start:end]
    return _precise(part.transpose(0, 1).contiguous())


def _grouped(x: Tensor, heads: int) -> Tensor:
    """[K, b·G, D] of a block ``x`` [b, H, D]."""
    block, _, size = x.shape
    return _precise(x.view(block, heads, -1, size).transpose(0, 1).reshape(heads, -1, size))


def _put(x: Tensor, into: Tensor) -> None:
    """The inverse of :func:`_grouped`, into ``into`` [b, H, D]."""
    block, _, size = into.shape
    heads = len(x)
    into.view(block, heads, -1, size).copy_(x.view(heads, block, -1, size).transpose(0, 1))


def _precise(x: Tensor) -> Tensor:
    """Scores are never less than fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _shares(query: Tensor, keys: Tensor, block: int) -> Tensor:
    """What each of the scaled queries [K, b·G, D] takes of the keys [K, j, D]: [K, b·G, j]."""
    scores = torch.bmm(query, keys.transpose(1, 2))
    later = torch.ones(block, block, dtype=torch.bool, device=query.device).triu_(1)
    corner = scores.view(len(keys), block, -1, keys.shape[1])[..., -block:]
    corner.masked_fill_(later.unsqueeze(1), float("-inf"))
    return torch.softmax(scores, dim=-1)


class Documents(torch.autograd.Function):
    """Causal attention: query [U, H, D], key and value [U, K, D] → [U, H, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: list[int], shared: int, scale: float
    ) -> Tensor:
        heads = key.shape[1]
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        for start, end, before in _pieces(bounds, shared):
            keys, values = (_by_head(each, start, end, before) for each in (key, value))
            for first, last, seen in _blocks(start, end, before, query.shape[1]):
                q = _grouped(query[first:last], heads) * scale
                shares = _shares(q, keys[:, :seen], last - first)
                _put(torch.bmm(shares, values[:, :seen]), out[first:last])
        ctx.save_for_backward(query, key, value)
        ctx.settings = bounds, shared, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        query, key, value = ctx.saved_tensors
        bounds, shared, scale = ctx.settings
        heads = key.shape[1]
        # The first document writes the shared tokens' gradients, the others add to them.
        query_grad, key_grad, value_grad = (
            torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (query, key, value)
        )
        for start, end, before in _pieces(bounds, shared):
            keys, values = (_by_head(each, start, end, before) for each in (key, value))
            to_keys, to_values = torch.zeros_like(keys), torch.zeros_like(values)
            for first, last, seen in _blocks(start, end, before, query.shape[1]):
                q = _grouped(query[first:last], heads) * scale
                shares = _shares(q, keys[:, :seen], last - first)
                arrived = _grouped(grad[first:last], heads)
                to_values[:, :seen].baddbmm_(shares.transpose(1, 2), arrived)
                through = torch.bmm(arrived, values[:, :seen].transpose(1, 2))
                through = torch.ops.aten._softmax_backward_data(through, shares, -1, shares.dtype)
                to_keys[:, :seen].baddbmm_(through.transpose(1, 2), q)
                _put(torch.bmm(through, keys[:, :seen]).mul_(scale), query_grad[first:last])
            for found, into in ((to_keys, key_grad), (to_values, value_grad)):
                by_token = found.transpose(0, 1)
                into[start:end] = by_token[before:]
                if before:
                    into[:before] += by_token[:before]
        return query_grad, key_grad, value_grad, None, None, None
