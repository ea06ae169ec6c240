"""Full fine-tuning: every parameter of the base is trained (``adapter.kind: none``).

The parameters are masters in fp32, whatever the forward pass computes in: an update of a thousandth
of a weight is nothing in bfloat16. What is published is rounded to the base's own type; the rounding
is done on the model itself, so that what is judged and compared is what somebody will load.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from packtrain.model.randomness import Randomness
from packtrain.model.trainable import Trainable

MASTER = torch.float32


@dataclass
class FullModel(Trainable):
    """All parameters of ``model``; a tied head and its embeddings are one."""

    model: PreTrainedModel
    randomness: Randomness

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def train(self, training: bool) -> None:
        """Nothing: the model stays in eval mode, so a base's own dropout is never applied."""

    @torch.no_grad()
    def round_to(self, dtype: torch.dtype) -> None:
        """Let each weight be the nearest that ``dtype`` has; the parameters stay in fp32."""
        if dtype == MASTER:
            return
        for parameter in self.parameters():
            parameter.copy_(parameter.to(dtype))


def train_all(model: PreTrainedModel, seed: int) -> FullModel:
    """Make every parameter of ``model``, which is in fp32, trainable."""
    assert all(parameter.dtype == MASTER for parameter in model.parameters())
    model.requires_grad_(True)
    model.eval()
    return FullModel(model, Randomness(seed))
