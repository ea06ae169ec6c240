"""Small packed batches for tests, and adapters to run them through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel

from packtrain.config import AdapterConfig
from packtrain.data.batches import MicroBatch, collate
from packtrain.data.tokenized import TokenizedRows
from packtrain.model.adapter import Adapter, add_adapter

Load = Callable[..., PreTrainedModel]
VOCAB = 250


def random_rows(lengths: list[int], seed: int = 0) -> TokenizedRows:
    """Rows of these lengths; the second half of each is supervised."""
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(0, VOCAB, length).astype(np.int32) for length in lengths]
    masks = [np.arange(length) >= length // 2 for length in lengths]
    return TokenizedRows.of(tokens, masks, [f"rows:{index}" for index in range(len(lengths))])


def alike(rows: TokenizedRows, length: int) -> TokenizedRows:
    """The same rows, but all of them begin with the first ``length`` tokens of the first."""
    pairs = [rows.row(index) for index in range(len(rows))]
    head = pairs[0][0][:length]
    tokens = [np.concatenate([head[: len(each)], each[length:]]) for each, _ in pairs]
    return TokenizedRows.of(tokens, [mask for _, mask in pairs], list(rows.places))


def packed(rows: TokenizedRows, *documents: int) -> MicroBatch:
    """One bin of these rows, in this order."""
    return collate(rows, [np.array(documents)], [0])


def with_tokens(rows: TokenizedRows, row: int, seed: int) -> TokenizedRows:
    """The same rows, but for other tokens in ``row``."""
    pairs = [rows.row(index) for index in range(len(rows))]
    tokens = [each for each, _ in pairs]
    tokens[row] = np.random.default_rng(seed).integers(0, VOCAB, len(tokens[row])).astype(np.int32)
    return TokenizedRows.of(tokens, [mask for _, mask in pairs], list(rows.places))


def gradients(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Copies of the gradients, which are cleared."""
    found = []
    for parameter in parameters:
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
        parameter.grad = None
    return found


def adapt(model: PreTrainedModel, *, dropout: float = 0.0, seed: int = 1) -> Adapter:
    """A LoRA adapter of rank 4 on all linear layers, with a random B, as if it had been trained."""
    adapter = add_adapter(model, AdapterConfig(rank=4, alpha=8.0, dropout=dropout), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_B.normal_(std=0.05, generator=generator)
    return adapter
