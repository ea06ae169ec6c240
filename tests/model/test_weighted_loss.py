"""A row of weight 2 is the row twice: loss and gradients, whatever the chunks, the layers and the layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from packed import Load, adapt, alike, gradients, packed, random_rows

from packtrain.data.batches import collate
from packtrain.data.tokenized import TokenizedRows
from packtrain.model.loss import CausalLoss, chunked_cross_entropy

LENGTHS = [30, 20, 25, 10]
WEIGHTS = [2.0, 1.0, 3.0, 1.0]
REPEATED = [0, 0, 1, 2, 2, 2, 3]


def weighted(rows: TokenizedRows, weights: list[float]) -> TokenizedRows:
    return replace(rows, weights=np.array(weights))


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_fp64_reference(chunk: int, softcap: float | None, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, requires_grad=True)
    bias = torch.randn(50, generator=generator, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 50, (23,), generator=generator)
    counts = torch.rand(23, generator=generator) * 4
    inputs = [x for x in (hidden, weight, bias) if x is not None]

    ours = chunked_cross_entropy(
        hidden, weight, bias, targets, scale=0.5, softcap=softcap, chunk=chunk, weights=counts
    )
    (ours * 0.3).backward()

    doubles = [x.detach().double().requires_grad_() for x in inputs]
    logits = 0.5 * F.linear(doubles[0], doubles[1], doubles[2] if with_bias else None)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    reference = (F.cross_entropy(logits, targets, reduction="none") * counts.double()).sum()
    (reference * 0.3).backward()

    assert float(ours.detach()) == pytest.approx(float(reference.detach()), rel=1e-6)
    for found, double in zip(inputs, doubles, strict=True):
        assert found.grad is not None and double.grad is not None
        torch.testing.assert_close(found.grad.double(), double.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 13, 512])
@pytest.mark.parametrize("begin_alike", [0, 8])
def test_a_weight_is_so_many_copies(load_base: Load, chunk: int, begin_alike: int) -> None:
    """Also where documents share a beginning that is computed once."""
    model = load_base("llama")
    adapter = adapt(model)
    loss = CausalLoss.of(model)
    loss.chunk = chunk
    rows = alike(random_rows(LENGTHS), begin_alike) if begin_alike else random_rows(LENGTHS)
    parameters = list(adapter.parameters())

    batch = packed(weighted(rows, WEIGHTS), 0, 1, 2, 3)
    assert batch.weights is not None
    once = loss(batch)
    once.backward()
    found = gradients(parameters)

    copies = loss(packed(rows, *REPEATED))
    copies.backward()
    assert float(once.detach()) == pytest.approx(float(copies.detach()), rel=1e-5)
    for ours, theirs in zip(found, gradients(parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_fraction_scales_the_gradient_of_its_row_alone(load_base: Load) -> None:
    model = load_base("llama")
    adapter = adapt(model)
    loss = CausalLoss.of(model)
    rows, parameters = random_rows(LENGTHS), list(adapter.parameters())
    alone = []
    for row in (0, 1):
        loss(packed(rows, row)).backward()
        alone.append(gradients(parameters))
    loss(packed(weighted(rows, [0.25, 1.5, 1.0, 1.0]), 0, 1)).backward()
    for ours, first, second in zip(gradients(parameters), *alone, strict=True):
        torch.testing.assert_close(ours, 0.25 * first + 1.5 * second, rtol=1e-3, atol=1e-5)


def test_weights_of_1_are_no_weights(load_base: Load) -> None:
    model = load_base("llama")
    adapt(model)
    loss = CausalLoss.of(model)
    rows = random_rows(LENGTHS)
    plain = collate(rows, [np.array([0, 1, 2, 3])], [0])
    ones = collate(weighted(rows, [1.0] * 4), [np.array([0, 1, 2, 3])], [0])
    assert plain.weights is None
    assert float(loss(plain).detach()) == float(loss(ones).detach())
