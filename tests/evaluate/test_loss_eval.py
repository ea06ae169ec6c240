"""Validation loss: the same for every micro-batch, weighted by tokens, stopped by its caller."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from packed import random_rows
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM

from packtrain.config import AdapterConfig
from packtrain.data.batches import collate
from packtrain.evaluate.loss import Evaluation, evaluate_loss
from packtrain.model.adapter import add_adapter
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import World

CPU = torch.device("cpu")
ROWS = random_rows([9, 30, 17, 12, 25])
BINS = [np.array([0, 1]), np.array([2]), np.array([3, 4])]


@pytest.fixture(scope="module")
def loss(tmp_path_factory: pytest.TempPathFactory) -> CausalLoss:
    model = AutoModelForCausalLM.from_pretrained(make_tiny_base(tmp_path_factory.mktemp("base")))
    add_adapter(model, AdapterConfig(rank=4), seed=1)
    return CausalLoss.of(model)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
def test_is_the_mean_over_all_supervised_tokens(loss: CausalLoss, micro_batch: int) -> None:
    found = evaluate_loss(loss, ROWS, BINS, micro_batch=micro_batch, device=CPU, world=World())
    sums, tokens = 0.0, 0
    for row in range(len(ROWS)):
        batch = collate(ROWS, [np.array([row])], [0])
        sums += float(loss(batch).detach())
        tokens += len(batch.targets)
    assert found.supervised_tokens == tokens > 0
    assert found.loss == pytest.approx(sums / tokens, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sums / tokens), rel=1e-4)


def test_tells_how_far_it_is_and_can_be_stopped(loss: CausalLoss) -> None:
    told: list[tuple[int, int]] = []
    evaluate_loss(
        loss,
        ROWS,
        BINS,
        micro_batch=2,
        device=CPU,
        world=World(),
        on_batch=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluate_loss(loss, ROWS, BINS, micro_batch=2, device=CPU, world=World(), on_batch=stop)


def test_makes_no_gradients(loss: CausalLoss) -> None:
    evaluate_loss(loss, ROWS, BINS, micro_batch=2, device=CPU, world=World())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("nats", "perplexity"), [(0.0, 1.0), (1.0, math.e), (701.0, math.inf)])
def test_perplexity_of_any_loss(nats: float, perplexity: float) -> None:
    assert Evaluation(nats, 10).perplexity == pytest.approx(perplexity)


def test_perplexity_of_what_is_not_a_number() -> None:
    assert not math.isfinite(Evaluation(math.nan, 10).perplexity)
