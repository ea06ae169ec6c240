"""A step's gradient with weighted rows: as if each row stood there so often, however the batch is split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from packed import gradients

from packtrain.data.batches import BatchPlan
from packtrain.train.loop import StepResult, Trainer

MakeTrainer = Callable[..., Trainer]
#: Of the twelve rows.
WEIGHTS = [2.0, 1.0, 1.0, 3.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 4.0, 1.0]


class KeepsGradients(torch.optim.SGD):
    """Does not clear them, so that a test can look."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


def one_step(trainer: Trainer) -> tuple[StepResult, list[torch.Tensor]]:
    """All rows in one batch."""
    sizes = np.array([int(trainer.rows.lengths[trainer.bins[each]].sum()) for each in range(6)])
    trainer.plan = BatchPlan(sizes, 10_000, 1.0, seed=3)
    trainer.optimizer = KeepsGradients(trainer.adapter.parameters(), lr=0.0)
    return trainer.step(1, lambda: False), gradients(trainer.adapter.parameters())


def weighted(trainer: Trainer, weights: list[float]) -> Trainer:
    trainer.rows = replace(trainer.rows, weights=np.array(weights))
    return trainer


def repeated(trainer: Trainer) -> Trainer:
    """Each row as often as its weight says, with the same bins otherwise."""
    copies = np.repeat(np.arange(12), np.array(WEIGHTS, dtype=np.int64))
    bins = [np.array([row, row + 1]) for row in range(0, 12, 2)]
    trainer.bins = [np.concatenate([copies[copies == row] for row in each]) for each in bins]
    return trainer


def close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, 6])
def test_a_weight_is_so_many_rows_in_the_mean(make_trainer: MakeTrainer, micro_batch: int) -> None:
    settings = {"dropout": 0.0, "max_grad_norm": 1e9}
    result, found = one_step(weighted(make_trainer(micro_batch=micro_batch, **settings), WEIGHTS))
    copies, expected = one_step(repeated(make_trainer(micro_batch=6, **settings)))
    assert result.loss == pytest.approx(copies.loss, rel=1e-5)
    assert result.grad_norm == pytest.approx(copies.grad_norm, rel=1e-4)
    assert result.supervised_tokens < copies.supervised_tokens  # what was computed, not what it counts
    close(found, expected)


def test_a_weight_of_all_rows_changes_nothing(make_trainer: MakeTrainer) -> None:
    plain, expected = one_step(make_trainer(dropout=0.0, max_grad_norm=1e9))
    result, found = one_step(weighted(make_trainer(dropout=0.0, max_grad_norm=1e9), [4.0] * 12))
    assert result.loss == pytest.approx(plain.loss, rel=1e-6)
    close(found, expected)


def test_dropout_does_not_depend_on_the_weights(make_trainer: MakeTrainer) -> None:
    plain, expected = one_step(make_trainer(dropout=0.3, max_grad_norm=1e9))
    result, found = one_step(weighted(make_trainer(dropout=0.3, max_grad_norm=1e9), [4.0] * 12))
    assert result.loss == pytest.approx(plain.loss, rel=1e-6)
    close(found, expected)
