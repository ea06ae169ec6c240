"""The learning rate of each step, and what decays."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from packtrain.config import TrainConfig
from packtrain.train.optimizer import learning_rate, make_optimizer, warmup_steps


def rates(steps: int, **settings: Any) -> list[float]:
    config = TrainConfig(learning_rate=1.0, **settings)
    return [learning_rate(step, steps, config) for step in range(1, steps + 1)]


def test_warms_up_to_the_peak_and_falls_by_half_a_cosine() -> None:
    found = rates(110, warmup=10, schedule="cosine")
    assert found[:10] == [pytest.approx(step / 10) for step in range(1, 11)]
    assert found[10] == pytest.approx(1.0)
    assert found[60] == pytest.approx(0.5)
    assert all(before > after for before, after in itertools.pairwise(found[10:]))
    assert 0 < found[-1] < 0.001


def test_linear_and_constant() -> None:
    assert rates(4, warmup=0, schedule="linear") == [pytest.approx(x) for x in (1.0, 0.75, 0.5, 0.25)]
    assert rates(4, warmup=2, schedule="constant") == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 0.5), (3, 3), (2, 10), (7, 0.03)])
def test_no_step_is_lost_to_a_rate_of_zero(schedule: str, steps: int, warmup: float) -> None:
    assert all(0 < rate <= 1 for rate in rates(steps, warmup=warmup, schedule=schedule))


def test_warmup_is_a_share_or_a_number_of_steps() -> None:
    assert warmup_steps(0.03, 100) == 3
    assert warmup_steps(0.03, 101) == math.ceil(3.03)
    assert warmup_steps(1, 100) == 1
    assert warmup_steps(0.0, 100) == 0


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    matrix, norm = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([norm, matrix], TrainConfig(learning_rate=0.1, weight_decay=0.5))
    for parameter in (matrix, norm):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(norm, torch.ones(3))
    torch.testing.assert_close(matrix.detach(), torch.full((2, 3), 0.95))


def test_a_group_without_a_parameter_is_left_out() -> None:
    optimizer = make_optimizer([nn.Parameter(torch.ones(2, 3))], TrainConfig())
    assert len(optimizer.param_groups) == 1


def test_it_takes_the_steps_of_torchs_own_to_the_bit() -> None:
    def trained(*, own: bool) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        generator = torch.Generator().manual_seed(3)
        weight = nn.Parameter(torch.randn(7, 5, generator=generator))
        if own:
            optimizer: torch.optim.Optimizer = make_optimizer([weight], TrainConfig(learning_rate=0.01))
        else:
            settings = TrainConfig()
            optimizer = torch.optim.AdamW(
                [weight],
                lr=0.01,
                betas=(settings.beta1, settings.beta2),
                weight_decay=settings.weight_decay,
                fused=True,
            )
        for _ in range(5):
            weight.grad = torch.randn(7, 5, generator=generator)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert weight.grad is None
        return weight, optimizer

    (ours, optimizer), (theirs, torchs) = trained(own=True), trained(own=False)
    assert torch.equal(ours, theirs) and ours.requires_grad
    for name, value in torchs.state[theirs].items():
        assert torch.equal(optimizer.state[ours][name], value)
