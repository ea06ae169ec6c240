"""Documents of a packed sequence do not see each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_attention import dense_reference
from packed import Load, adapt, gradients, packed, random_rows, with_tokens

from packtrain.model.attention import documents_one_by_one, documents_softcapped, plain_attention
from packtrain.model.loss import CausalLoss

KINDS = ["llama", "llama3", "mistral", "gemma", "qwen3", "phi3"]


@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_equals_a_dense_block_mask(window: int | None, softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    bounds = [0, 7, 8, 40]
    query = torch.randn(1, 4, 40, 16, generator=generator)
    key, value = (torch.randn(1, 2, 40, 16, generator=generator) for _ in range(2))
    offsets = torch.tensor(bounds, dtype=torch.int32)
    if softcap is None:
        ours = documents_one_by_one(query, key, value, offsets, 0.3, window)
    else:
        ours = documents_softcapped(query, key, value, offsets, 0.3, window, softcap)
    reference = dense_reference(query, key, value, bounds, 0.3, window, softcap)
    torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_another_document_changes_no_bit_of_this_one(load_base: Load, kind: str) -> None:
    model = load_base(kind)
    adapter = adapt(model)
    loss = CausalLoss.of(model)
    rows = random_rows([30, 41, 9])
    seen = []
    for variant in (rows, with_tokens(with_tokens(rows, 0, seed=5), 2, seed=6)):
        batch = packed(variant, 0, 1, 2)
        inside = (batch.target_positions >= 30) & (batch.target_positions < 71)
        hidden = loss.hidden(batch)[inside]
        logits = F.linear(hidden, loss.head.weight)
        F.cross_entropy(logits, batch.targets[inside]).backward()
        seen.append((logits.detach(), gradients(adapter.parameters())))
    (logits, grads), (other_logits, other_grads) = seen
    assert torch.equal(logits, other_logits)
    assert any(bool(grad.any()) for grad in grads)
    for grad, other in zip(grads, other_grads, strict=True):
        assert torch.equal(grad, other)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_unpacked_give_the_same_loss_and_gradients(load_base: Load, kind: str) -> None:
    model = load_base(kind)
    adapter = adapt(model)
    loss = CausalLoss.of(model)
    rows = random_rows([30, 41, 9, 17])
    together = loss(packed(rows, 2, 0, 3, 1))
    together.backward()
    packed_grads = gradients(adapter.parameters())
    apart = torch.stack([loss(packed(rows, row)) for row in range(4)]).sum()
    apart.backward()
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=0)
    for grad, other in zip(packed_grads, gradients(adapter.parameters()), strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_models_own_attention(load_base: Load, kind: str) -> None:
    model = load_base(kind)
    adapt(model)
    loss = CausalLoss.of(model)
    rows = random_rows([50])
    batch = packed(rows, 0)
    with torch.no_grad():
        ours = F.linear(loss.hidden(batch), loss.head.weight)
        with plain_attention(model):
            theirs = model(input_ids=batch.input_ids[None]).logits[0, batch.target_positions]
    if loss.softcap is not None:
        ours = loss.softcap * torch.tanh(ours / loss.softcap)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
