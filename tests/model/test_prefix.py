"""What documents begin with alike is computed once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from packed import Load, adapt, alike, gradients, packed, random_rows

from packtrain.data.batches import MicroBatch, collate
from packtrain.model import loss as loss_module
from packtrain.model.loss import CausalLoss
from packtrain.model.prefix import common_prefix, laid_out, share_prefix

LENGTHS = [30, 41, 9, 47]


def test_the_beginning_lies_in_the_first_document_alone() -> None:
    whole = packed(alike(random_rows(LENGTHS), 5), 2, 0, 3)
    laid, shared = share_prefix(whole)
    assert shared == 5
    assert laid.cu_seqlens.tolist() == [0, 9, 9 + 25, 9 + 25 + 42]
    assert laid.position_ids.tolist() == [*range(9), *range(5, 30), *range(5, 47)]
    tokens, own, bounds = laid_out(laid.cu_seqlens.tolist(), shared)
    assert bounds == whole.cu_seqlens.tolist()
    assert laid.input_ids[tokens].tolist() == whole.input_ids.tolist()
    assert torch.tensor(tokens)[own].tolist() == list(range(len(laid.input_ids)))
    predicted_by = laid.input_ids[laid.target_positions]
    assert torch.equal(predicted_by, whole.input_ids[whole.target_positions])
    assert torch.equal(laid.targets, whole.targets)


@pytest.mark.parametrize(
    ("lengths", "alike_for"), [([40], 30), ([400, 400], 10), ([30, 20], 0), ([30, 1, 20], 1)]
)
def test_what_does_not_pay_stays_as_it_is(lengths: list[int], alike_for: int) -> None:
    batch = packed(alike(random_rows(lengths), alike_for), *range(len(lengths)))
    assert share_prefix(batch) == (batch, 0)


def test_of_every_document_one_token_at_least_is_its_own() -> None:
    tokens = np.array([1, 2, 3, 1, 2, 3, 4, 1, 2])
    assert common_prefix(tokens, np.array([0, 3, 7, 9])) == 1
    assert common_prefix(tokens, np.array([0, 3, 7])) == 2
    batch = packed(alike(random_rows([12, 12, 12]), 12), 0, 1, 2)
    laid, shared = share_prefix(batch)
    assert (shared, laid.cu_seqlens.tolist()) == (11, [0, 12, 13, 14])


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """``apart()``: from now on nothing is shared."""

    def unshared(batch: MicroBatch) -> tuple[MicroBatch, int]:
        return batch, 0

    return lambda: monkeypatch.setattr(loss_module, "share_prefix", unshared)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma", "qwen3", "phi3"])
def test_same_loss_and_gradients(load_base: Load, kind: str, apart: Callable[[], None]) -> None:
    model = load_base(kind)
    adapter = adapt(model)
    loss = CausalLoss.of(model)
    rows = alike(random_rows(LENGTHS), 8)
    # A supervised token within what is shared, too.
    rows.supervised[3:6] = True
    batch = packed(rows, 0, 1, 2, 3)
    seen = []
    for name in ("together", "apart"):
        if name == "apart":
            apart()
        length: list[int] = []
        hook = model.get_input_embeddings().register_forward_hook(
            lambda _module, args, _out, length=length: length.append(args[0].shape[1])
        )
        value = loss(batch)
        value.backward()
        hook.remove()
        seen.append((float(value.detach()), gradients(adapter.parameters()), length))
    (together, grads, computed), (expected, others, all_of_it) = seen
    assert (computed, all_of_it) == ([127 - 3 * 8], [127])
    assert together == pytest.approx(expected, rel=1e-6)
    for mine, other in zip(grads, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_drops_something_else_of_each_document(load_base: Load, training: bool) -> None:
    model = load_base()
    adapter = adapt(model, dropout=0.2)
    loss = CausalLoss.of(model)
    batch = collate(alike(random_rows(LENGTHS), 8), [np.arange(4)], [0])
    adapter.train(training)
    adapter.randomness.bins = batch.bins
    shapes: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: shapes.append(args[0].shape[1]))
    loss(batch)
    assert shapes == [127 if training else 127 - 24]


def test_one_after_another_as_before(load_base: Load) -> None:
    """The lengths of a batch change nothing of how the next one is laid."""
    model = load_base()
    loss = CausalLoss.of(model)
    rows = alike(random_rows(LENGTHS), 8)
    with torch.no_grad():
        first = float(loss(packed(rows, 0, 1)))
        loss(packed(rows, 2, 3, 0))
        assert float(loss(packed(rows, 0, 1))) == first
        assert float(loss(replace(packed(rows, 0, 1), longest=41))) == first
