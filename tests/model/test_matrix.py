"""The same gradients whatever a step is made of: heads, groups, chunks, splits, checkpointing.

The reference is autograd through the modules' own forward and PyTorch's cross entropy, row by row.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from packed import adapt, alike, gradients, packed, random_rows
from tiny import make_tiny_base
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from packtrain.model.adapter import checkpoint_activations
from packtrain.model.fused import modules_own_way
from packtrain.model.loss import CausalLoss

LENGTHS = [30, 41, 9, 17]
ROWS = alike(random_rows(LENGTHS), 4)


@dataclass(frozen=True)
class Base:
    tied: bool
    """Whether the head is the embeddings."""
    kv_heads: int
    """Of four heads of queries."""
    full: bool
    """Whether every weight is trained, the head's too."""


BASES = [
    Base(tied, kv_heads, full)
    for tied, kv_heads, full in itertools.product((False, True), (1, 2, 4), (False, True))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def build(folder: Path, base: Base) -> tuple[PreTrainedModel, list[torch.nn.Parameter]]:
    path = folder / f"{base.tied}-{base.kv_heads}"
    if not path.exists():
        make_tiny_base(path, tied=base.tied, shape={"num_key_value_heads": base.kv_heads})
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if base.full:
        model.requires_grad_(True)
        return model, list(model.parameters())
    return model, adapt(model).parameters()


def reference(model: PreTrainedModel, parameters: list[torch.nn.Parameter]) -> tuple[float, list[Tensor]]:
    total = torch.zeros(())
    for row in range(len(LENGTHS)):
        batch = packed(ROWS, row)
        logits = model(input_ids=batch.input_ids[None], use_cache=False).logits[0]
        total = total + F.cross_entropy(logits[batch.target_positions], batch.targets, reduction="sum")
    total.backward()
    return float(total.detach()), gradients(parameters)


@pytest.mark.parametrize("base", BASES, ids=str)
def test_whatever_a_step_is_made_of(folder: Path, base: Base) -> None:
    model, parameters = build(folder, base)
    expected, grads = reference(model, parameters)
    loss = CausalLoss.of(model)
    splits: list[list[tuple[int, ...]]] = [[(0, 1, 2, 3)], [(3, 1), (0,), (2,)]]
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        for chunk, split in itertools.product((5, 512), splits):
            loss.chunk = chunk
            value = 0.0
            for documents in split:
                part = loss(packed(ROWS, *documents))
                part.backward()
                value += float(part.detach())
            assert value == pytest.approx(expected, rel=1e-6)
            for mine, other in zip(gradients(parameters), grads, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5)


def test_the_other_way_is_another_way(folder: Path) -> None:
    """What is compared above are not the same instructions twice."""
    model, parameters = build(folder, Base(tied=True, kv_heads=2, full=False))
    loss = CausalLoss.of(model)
    loss(packed(ROWS, 0, 1)).backward()
    ours = gradients(parameters)
    with modules_own_way(model):
        loss(packed(ROWS, 0, 1)).backward()
    assert any(not torch.equal(mine, other) for mine, other in zip(ours, gradients(parameters), strict=True))
