"""Operations that a token of a training step needs by the model's arithmetic: what its speed is judged by.

Two for each weight of a matrix forward, two backward to pass the gradient on, two more where the weight is
trained; the head for supervised tokens alone, as it is computed; attention causal, within documents and
windows. Recomputing is not counted: it is no use to the model. The gradient is passed on from the loss to
the lowest layer that is trained. (https://arxiv.org/abs/2204.02311, appendix B, without its assumption that
every weight is trained.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from packtrain.model.adapter import LoraLinear

_LAYER = re.compile(r"\.(\d+)\.")


def flops_per_token(model: PreTrainedModel, lengths: np.ndarray[Any, Any], supervised: float) -> float | None:
    """On average. ``lengths`` [N]: tokens of each document; ``supervised``: the share with a loss.

    None for a model with weights that are no linear layers (experts), of which nothing is known.
    """
    heads = _attention(model)
    if heads is None or _has_unknown_weights(model) or not len(lengths):
        return None
    lowest = min((layer for layer, module in _placed(model) if _is_trained(module)), default=None)
    if lowest is None:
        return None
    head = model.get_output_embeddings()
    total = 0.0
    for layer, module in _placed(model):
        if isinstance(module, LoraLinear):
            total += 6.0 * module.lora_A.shape[0] * (module.in_features + module.out_features)
        elif (size := _size(module)) is not None:
            passes = 2.0 + 2.0 * (layer >= lowest) + 2.0 * module.get_parameter("weight").requires_grad
            total += passes * size * (supervised if module is head else 1.0)
    width, windows = heads
    for layer, window in enumerate(windows):
        total += (4.0 + 8.0 * (layer >= lowest)) * width * _seen(lengths, window)
    return total


def _placed(model: PreTrainedModel) -> Iterator[tuple[int, nn.Module]]:
    """Every module and the number of its decoder layer: -1 below the first, beyond all behind the last."""
    head = model.get_output_embeddings()
    for path, module in model.named_modules():
        found = _LAYER.search(f".{path}.")
        yield int(found[1]) if found else (1 << 30 if module is head else -1), module


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _size(module: nn.Module) -> int | None:
    """Weights of a linear layer; None for any other module. A weight in 4 bits does not tell by its shape."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.weight.numel() if isinstance(module, Conv1D) else None


def _has_unknown_weights(model: PreTrainedModel) -> bool:
    known = (nn.Linear, Conv1D, nn.Embedding, LoraLinear)
    return any(
        parameter.ndim > 1
        for module in model.modules()
        if not isinstance(module, known)
        for parameter in module.parameters(recurse=False)
    )


def _attention(model: PreTrainedModel) -> tuple[int, list[int | None]] | None:
    """Heads times their size, and each layer's window; None for another kind of model."""
    config = model.config.get_text_config()
    heads, layers = getattr(config, "num_attention_heads", None), getattr(config, "num_hidden_layers", None)
    if not isinstance(heads, int) or not isinstance(layers, int):
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or [None] * layers
    return heads * size, [None if kind == "full_attention" else window for kind in types]


def _seen(lengths: np.ndarray[Any, Any], window: int | None) -> float:
    """Tokens that a token sees, itself among them, on average over all of them."""
    whole = lengths.astype(np.float64)
    near = np.minimum(whole, window) if window else whole
    return float((near * (near + 1) / 2 + (whole - near) * near).sum() / whole.sum())
