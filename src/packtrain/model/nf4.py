"""A base in 4 bits (QLoRA, https://arxiv.org/abs/2305.14314): NF4 with doubly quantised scales.

bitsandbytes packs and unpacks; transformers lets it do so while the weights are loaded, so that they are
what everybody's ``BitsAndBytesConfig`` gives. The product is our own: bitsandbytes' layer, outside of
training, changes to a form on some CPUs that has no gradient and computes in bfloat16.

Imported only where ``adapter.kind`` is qlora: bitsandbytes is an extra.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from packtrain.errors import ConfigError

# It says at its import that a kernel of the hub's, which nothing here uses, is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
import bitsandbytes as bnb  # noqa: E402
from bitsandbytes.functional import dequantize_4bit  # noqa: E402


class _Product(torch.autograd.Function):
    """x [..., in] times the unpacked weight; only the packed one is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.layer.unpacked(grad.dtype), None


class Nf4Linear(bnb.nn.Linear4bit):  # type: ignore[misc]
    """bitsandbytes' layer, as which peft knows it, with a product that is the same everywhere."""

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in]."""
        weight: Tensor = dequantize_4bit(self.weight.data, self.weight.quant_state)
        return weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Product.apply(x, self)
        return result


def settings(dtype: torch.dtype) -> Any:
    """What transformers' ``from_pretrained`` takes as ``quantization_config``."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def pack(model: PreTrainedModel) -> None:
    """Pack the linear layers of a model that stands in memory, but the head, as transformers does while it
    loads one. Errors: :class:`ConfigError`."""
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or module is head:
            continue
        weight = module.weight
        # Its own weight is never made: what is packed takes its place.
        layer = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=weight.dtype, device="meta"
        )
        layer.bias = module.bias
        layer.weight = bnb.nn.Params4bit(
            weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer
        ).to(weight.device)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
    use_own_product(model)


def use_own_product(model: PreTrainedModel) -> None:
    """Let every 4-bit layer of ``model`` compute as :class:`Nf4Linear`. Errors: :class:`ConfigError`."""
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    if not layers:
        raise ConfigError(
            f"adapter.kind: qlora finds no linear layer in {type(model).__name__} that 4 bits can hold",
            hint="take adapter.kind: lora",
        )
    for layer in layers:
        layer.__class__ = Nf4Linear
