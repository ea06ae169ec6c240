"""The chunked loss is the plain loss, with its gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from packed import Load, adapt, packed, random_rows

from packtrain.errors import ConfigError
from packtrain.model.loss import CausalLoss, check_against_model, chunked_cross_entropy


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_fp64_reference(chunk: int, scale: float, softcap: float | None, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, requires_grad=True)
    bias = torch.randn(50, generator=generator, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 50, (23,), generator=generator)
    inputs = [x for x in (hidden, weight, bias) if x is not None]

    ours = chunked_cross_entropy(hidden, weight, bias, targets, scale=scale, softcap=softcap, chunk=chunk)
    (ours * 0.3).backward()
    found = [x.grad for x in inputs]

    doubles = [x.detach().double().requires_grad_() for x in inputs]
    logits = scale * F.linear(doubles[0], doubles[1], doubles[2] if with_bias else None)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    reference = F.cross_entropy(logits, targets, reduction="sum")
    (reference * 0.3).backward()

    assert float(ours.detach()) == pytest.approx(float(reference.detach()), rel=1e-6)
    for grad, double in zip(found, doubles, strict=True):
        assert grad is not None and double.grad is not None
        torch.testing.assert_close(grad.double(), double.grad, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden = torch.randn(3, 4, requires_grad=True)
    weight = torch.randn(5, 4)
    chunked_cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2])).backward()
    assert weight.grad is None
    assert hidden.grad is not None and bool(hidden.grad.any())


def test_no_supervised_token_is_a_loss_of_zero() -> None:
    hidden = torch.randn(0, 4, requires_grad=True)
    loss = chunked_cross_entropy(hidden, torch.randn(5, 4), None, torch.empty(0, dtype=torch.int64))
    assert float(loss.detach()) == 0.0


def test_bfloat16_stays_close_to_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(40, 32, generator=generator), torch.randn(60, 32, generator=generator) / 6
    targets = torch.randint(0, 60, (40,), generator=generator)
    full = chunked_cross_entropy(hidden, weight, None, targets)
    half = chunked_cross_entropy(hidden.bfloat16(), weight.bfloat16(), None, targets)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(full), rel=5e-3)


def test_the_gate_accepts_what_is_right_and_refuses_what_is_not(load_base: Load) -> None:
    model = load_base("llama")
    adapt(model)
    loss = CausalLoss.of(model)
    batch = packed(random_rows([20, 12]), 0, 1)
    check_against_model(loss, model, batch)
    with pytest.raises(ConfigError, match="LlamaForCausalLM is not supported: on the same rows its own loss"):
        check_against_model(CausalLoss(loss.backbone, loss.head, scale=0.5), model, batch)


def test_the_gate_finds_documents_that_see_each_other(load_base: Load) -> None:
    model = load_base("llama")
    adapt(model)
    loss = CausalLoss.of(model)
    batch = packed(random_rows([20, 12]), 0, 1)
    leaking = replace(
        batch,
        cu_seqlens=torch.tensor([0, 32], dtype=torch.int32),
        longest=32,
        position_ids=torch.arange(32),
    )
    with torch.no_grad():
        assert float(loss(leaking)) != pytest.approx(float(loss(batch)), rel=1e-4)


def test_an_encoder_is_refused_by_name() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=32
    )
    with pytest.raises(ConfigError, match="BertForSequenceClassification has no linear head"):
        CausalLoss.of(BertForSequenceClassification(config))
