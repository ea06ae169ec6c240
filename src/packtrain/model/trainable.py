"""What a run trains: an adapter on a frozen base, or the base itself.

The loop, the optimizer and the checkpoints know no more of it than this: named parameters in fp32,
which may be sharded over the ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from packtrain.errors import BugError
from packtrain.model.parallel import put, whole
from packtrain.model.randomness import Randomness


class Trainable(ABC):
    """The trainable parameters of a model, and the randomness of the running step."""

    randomness: Randomness

    @abstractmethod
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name, the same names on every rank and in every attempt.

        Read from the model each time: sharding puts other parameters in their place.
        """

    @abstractmethod
    def train(self, training: bool) -> None:
        """Dropout on or off."""

    def learning_rates(self) -> dict[str, float]:
        """Of each parameter, as a multiple of the run's."""
        return dict.fromkeys(self.named_parameters(), 1.0)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.named_parameters().values())

    def shapes(self) -> dict[str, list[int]]:
        return {name: list(parameter.shape) for name, parameter in self.named_parameters().items()}

    def tensors(self, *, keep: bool = True) -> dict[str, Tensor]:
        """A copy of the weights on the CPU, each whole. All ranks must ask, where they are sharded.

        Without ``keep`` a rank only takes part in gathering them, and gets nothing.
        """
        copies = {}
        for name, weight in self.named_parameters().items():
            gathered = whole(weight.detach())
            if keep:
                copies[name] = gathered.to("cpu", copy=True)
        return copies

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave; names and shapes must be the same. All ranks have them."""
        own = self.named_parameters()
        if tensors.keys() != own.keys():
            raise BugError(f"the trained names differ: {sorted(tensors.keys() ^ own.keys())[:3]}")
        for name, weight in own.items():
            put(weight, tensors[name])
