"""AdamW and the learning rate of each step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from packtrain.config import TrainConfig

#: Of a group: its learning rate as a multiple of the run's.
RATE = "packtrain_rate"


class AdamW(torch.optim.AdamW):
    """PyTorch's, as its code stands there: what goes around its methods is for an optimizer that is compiled,
    and imports the compiler, which takes as long as the first step of a small model."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainConfig, rates: Sequence[float] | None = None
) -> AdamW:
    """AdamW with decoupled weight decay (https://arxiv.org/abs/1711.05101), in one fused kernel.

    The decay is for matrices alone: norms and biases, which have one dimension, are left to go where
    they want. The state is in the parameters' type, which is fp32. ``rates``: each parameter's learning
    rate as a multiple of the run's; :func:`set_rate` keeps to it.
    """
    parameters = list(parameters)
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, rate in zip(parameters, rates or [1.0] * len(parameters), strict=True):
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        found.setdefault((decay, rate), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay, RATE: rate} for (decay, rate), group in found.items()
    ]
    optimizer = AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
    set_rate(optimizer, config.learning_rate)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step be taken at ``rate``, and at its multiple in a group that has another."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE, 1.0)


def warmup_steps(warmup: float | int, steps: int) -> int:
    """A share of all steps, or a whole number of steps."""
    return warmup if isinstance(warmup, int) else math.ceil(warmup * steps)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The rate of optimizer step ``step`` (1 … ``steps``).

    Rises linearly to the peak at the end of the warm-up, then falls to (nearly) 0 at the end of
    the run by half a cosine or linearly, or stays. No step has rate 0.
    """
    warmup = warmup_steps(config.warmup, steps)
    if step <= warmup:
        return config.learning_rate * step / warmup
    done = (step - 1 - warmup) / max(1, steps - warmup)
    match config.schedule:
        case "cosine":
            return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        case "linear":
            return config.learning_rate * (1.0 - done)
        case "constant":
            return config.learning_rate
