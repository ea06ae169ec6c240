"""DoRA: the size of each output's weights is trained apart from their direction.

y = m / ‖W + s·B A‖ · (W x + s·B A x) + bias, with ‖·‖ over each row, and a constant to the gradient
(https://arxiv.org/abs/2402.09353, sections 3 and 4.3), as in peft. With dropout both W x and B A x are
those of what is left of x, but for the W x of the base's own result, from which peft starts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from packtrain.config import AdapterConfig
from packtrain.errors import ConfigError
from packtrain.model.adapter import LoraLinear
from packtrain.model.randomness import Randomness


class DoraLinear(LoraLinear):
    """A frozen linear layer, its update of rank r, and the trainable sizes m [out]."""

    def __init__(self, base: nn.Linear | Conv1D, config: AdapterConfig, randomness: Randomness, index: int):
        super().__init__(base, config, randomness, index)
        if type(base) is not nn.Linear:
            raise ConfigError(
                f"adapter.kind: dora knows plain linear layers, and this base has {type(base).__name__}",
                hint="take adapter.kind: lora",
            )
        self.base_layer: nn.Linear
        size = torch.linalg.vector_norm(base.weight.detach(), dim=1, dtype=torch.float32)
        self.lora_magnitude_vector = nn.Parameter(size)

    def trained(self) -> dict[str, nn.Parameter]:
        return super().trained() | {"lora_magnitude_vector": self.lora_magnitude_vector}

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out], in the type of ``x``."""
        result: Tensor = self.base_layer(x)
        if not self.enabled:
            return result
        weight, bias = self.base_layer.weight, self.base_layer.bias
        if self.dropout and self.training:
            shape = torch.Size((x[..., 0].numel(), x.shape[-1]))
            mask = self.randomness.keep_mask(shape, x.device, self.index, self.dropout)
            x = x * mask.view(x.shape).to(x.dtype)
            straight = F.linear(x, weight)
        else:
            straight = result if bias is None else result - bias
        update = F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        factor = self.lora_magnitude_vector / self._norm()
        return result + (factor - 1.0).to(x.dtype) * straight + (self.scaling * factor).to(x.dtype) * update

    @torch.no_grad()
    def _norm(self) -> Tensor:
        """‖W + s·B A‖ of each row [out], without making that matrix: from W·W, W·A and A·A."""
        weight, a, b = self.base_layer.weight, self.lora_A, self.lora_B
        own = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square()
        across = (F.linear(weight, a.to(weight.dtype)).float() * b).sum(1)
        update = (F.linear(b, a @ a.t()) * b).sum(1)
        square: Tensor = own + 2.0 * self.scaling * across + self.scaling**2 * update
        return square.clamp_min(1e-30).sqrt()
