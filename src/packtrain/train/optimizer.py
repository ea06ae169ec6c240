"""AdamW and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from packtrain.config import TrainConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay (https://arxiv.org/abs/1711.05101), in one fused kernel.

    The decay is for matrices alone: norms and biases, which have one dimension, are left to go where
    they want. The state is in the parameters' type, which is fp32.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if parameter.ndim > 1 else free).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, config.weight_decay), (free, 0.0))
        if group
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


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
