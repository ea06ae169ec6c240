"""Documents in one flat sequence that do not see each other.

Packed rows lie one after another in a sequence of T tokens, without padding. A dense mask would
cost T² memory and time for blocks that are all zero; so attention runs per document: on CPU (and
wherever no kernel fits) one call a document, on CUDA in half precision one variable-length call.
Each document's result depends on its own tokens alone, to the bit.

Shapes: T tokens, N documents, H query heads, K key/value heads, D head size, L one document's
length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from packtrain.errors import ConfigError
from packtrain.model.documents import Documents
from packtrain.model.fused import modules_own_way
from packtrain.model.prefix import attend_whole

NAME = "packtrain_documents"


def documents_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scale: float, window: int | None
) -> Tensor:
    """Causal attention in each document, one call a document.

    ``query`` [1, H, T, D], ``key`` and ``value`` [1, K, T, D], ``bounds`` [N+1] (where documents
    begin, and T); result [1, H, T, D]. ``window``: how many tokens a token sees, itself included.
    """
    offsets = bounds.tolist()
    parts = []
    for start, end in itertools.pairwise(offsets):
        length = end - start
        mask = _band(length, window, query.device) if window is not None and window < length else None
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2)


def documents_varlen(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scale: float, window: int | None, longest: int
) -> Tensor:
    """The same by flash attention's variable-length kernel, in one call (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    result = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(result, Tensor)
    return result.transpose(0, 1).unsqueeze(0)


def documents_softcapped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    scale: float,
    window: int | None,
    softcap: float,
) -> Tensor:
    """The same with scores bent to ±softcap, as Gemma 2 does; no fused kernel has this on every device."""
    groups = query.shape[1] // key.shape[1]
    offsets = bounds.tolist()
    parts = []
    for start, end in itertools.pairwise(offsets):
        keys = key[:, :, start:end].repeat_interleave(groups, dim=1)
        values = value[:, :, start:end].repeat_interleave(groups, dim=1)
        scores = query[:, :, start:end] @ keys.transpose(2, 3) * scale
        scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~_band(end - start, window, query.device), float("-inf"))
        parts.append(torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ values)
    return torch.cat(parts, dim=2)


def _band(length: int, window: int | None, device: torch.device) -> Tensor:
    """[length, length], true where a query (row) sees a key (column)."""
    band = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return band if window is None else band.triu(1 - window)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    shared_prefix: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer; the keyword names are its own."""
    if dropout:
        raise ConfigError(
            "this base uses attention dropout, which packtrain does not train with",
            hint="set attention_dropout to 0 in the base's config.json",
        )
    if torch.is_autocast_enabled(query.device.type):
        # What rotates queries and keys leaves them in fp32, which the fast kernel does not take.
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(half), key.to(half), value.to(half)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    limited = softcap is not None or (sliding_window is not None and sliding_window < max_length_q)
    if query.device.type == "cpu" and not limited:
        flat = (each[0].transpose(0, 1) for each in (query, key, value))
        result: Tensor = Documents.apply(*flat, cu_seq_lens_q.tolist(), shared_prefix, scale)
        return result.unsqueeze(0), None
    own = None
    if shared_prefix:
        query, key, value, cu_seq_lens_q, own = attend_whole(query, key, value, cu_seq_lens_q, shared_prefix)
    if softcap is not None:
        out = documents_softcapped(query, key, value, cu_seq_lens_q, scale, sliding_window, softcap)
    elif query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        out = documents_varlen(query, key, value, cu_seq_lens_q, scale, sliding_window, max_length_q)
    else:
        out = documents_one_by_one(query, key, value, cu_seq_lens_q, scale, sliding_window)
    if own is not None:
        out = out.index_select(2, own)
    return out.transpose(1, 2), None


# No function for masks beside it: then transformers makes none, and does not look for bounds in the
# position ids either, for which the host would wait on the GPU in every forward pass.
AttentionInterface.register(NAME, _attention)


def use_document_attention(model: PreTrainedModel) -> None:
    """Make ``model`` keep documents apart; each forward then needs :func:`attention_arguments`."""
    if not model._can_set_attn_implementation():
        raise ConfigError(
            f"{type(model).__name__} has its attention built in, so that packed rows would see each other",
            hint="this base is not supported by this version of packtrain",
        )
    model.set_attn_implementation(NAME)


def attention_arguments(bounds: Tensor, longest: int, shared: int = 0) -> dict[str, Any]:
    """Keyword arguments for the model's forward: ``bounds`` [N+1] int32, ``longest`` document.

    ``shared``: how many tokens at the start stand for the beginning of every document.
    """
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
        "shared_prefix": shared,
    }


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """transformers' own layers and attention, for generating with a cache and for comparisons."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        with modules_own_way(model):
            yield
    finally:
        model.set_attn_implementation(before)
