"""A linear layer and its LoRA update as plain tensors, forward and backward written out.

What autograd would do with y = W x + b + s · B (A (x ∘ mask)), without what it would keep and without
its extra passes: the update is added where y lies, and the gradients of several layers that share an
input are summed where the first one lies. Only x, of which a layer above may have a copy anyway, and
A x (rank r) are needed for the backward pass.

Shapes: T tokens, C inputs, O outputs, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packtrain.model.adapter import LoraLinear
from packtrain.model.randomness import Randomness

#: Tensors that :func:`tensors_of` gives for a layer: weight, bias, A, B.
EACH = 4
#: Whether this build of PyTorch has oneDNN.
ONEDNN = torch.backends.mkldnn.is_available()


@dataclass(frozen=True)
class Update:
    """What is no tensor about a layer's LoRA update."""

    scaling: float
    index: int
    dropout: float
    randomness: Randomness | None
    """Of the running step; None without dropout."""

    def drop(self, x: Tensor) -> Tensor:
        """``x`` [T, C] with the keyed mask on it: the same one each time."""
        if self.randomness is None:
            return x
        return x * self.mask(x)

    def mask(self, x: Tensor) -> Tensor:
        assert self.randomness is not None
        return self.randomness.keep_mask(x.shape, x.device, self.index, self.dropout).to(x.dtype)


def knows(layer: nn.Module) -> bool:
    """Whether ``layer`` is a plain linear layer, or such a one with a plain LoRA update."""
    if type(layer) is LoraLinear:
        own = {name for name, _ in layer.named_parameters(recurse=False)}
        return type(layer.base_layer) is nn.Linear and own == {"lora_A", "lora_B"}
    return type(layer) is nn.Linear


def tensors_of(layer: nn.Module) -> tuple[Tensor | None, ...]:
    """Weight [O, C], bias [O], A [r, C] and B [O, r]; the last two None without a (working) update."""
    own: tuple[Tensor | None, Tensor | None] = (None, None)
    base = layer
    if isinstance(layer, LoraLinear):
        base = layer.base_layer
        own = (layer.lora_A, layer.lora_B) if layer.enabled else own
    assert isinstance(base, nn.Linear)
    return base.weight, base.bias, *own


def drops(layer: nn.Module) -> bool:
    """Whether dropout is at work in ``layer`` itself."""
    return isinstance(layer, LoraLinear) and layer.training and layer.dropout > 0.0


def update_of(layer: nn.Module) -> Update | None:
    if not isinstance(layer, LoraLinear) or not layer.enabled:
        return None
    # A copy: the backward pass of this step may come when the next one has begun.
    randomness = replace(layer.randomness) if drops(layer) else None
    return Update(layer.scaling, layer.index, layer.dropout, randomness)


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` [T, C] times the transpose of ``weight`` [O, C], plus ``bias`` [O].

    In fp32 on the CPU by oneDNN, whose kernels are faster than those that PyTorch takes by itself.
    (Only for tensors that have content: nothing is known of the operator's result without; torch.compile
    chooses by itself.)
    """
    plain = type(x) is Tensor and x.dtype == torch.float32 and x.device.type == "cpu"
    if plain and len(x) and ONEDNN and not torch.compiler.is_compiling():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return F.linear(x, weight, bias)


def linear(
    x: Tensor, parts: tuple[Tensor | None, ...], update: Update | None, onto: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """y [T, O] (plus ``onto``), and A x [T, r], which the backward pass needs."""
    weight, bias, a, b = parts
    assert weight is not None
    y = times(x, weight, bias)
    if onto is not None:
        y += onto
    if update is None:
        return y, None
    assert a is not None and b is not None
    inner = times(update.drop(x), a.to(x.dtype))
    y.addmm_(inner, b.to(x.dtype).t(), alpha=update.scaling)
    return y, inner


def linear_backward(
    grad: Tensor,
    x: Tensor,
    inner: Tensor | None,
    parts: tuple[Tensor | None, ...],
    update: Update | None,
    wanted: tuple[bool, ...],
    into: Tensor | None,
    *,
    input_wanted: bool = True,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradient of x, added to ``into`` (in place) where that is given, and those of the parts.

    ``wanted``: for each of the parts.
    """
    weight, _, a, b = parts
    assert weight is not None
    found: list[Tensor | None] = [None] * EACH
    if wanted[0]:
        found[0] = grad.t() @ x
    if wanted[1]:
        found[1] = grad.sum(0)
    if input_wanted:
        through = times(grad, weight.t())
        into = through if into is None else into.add_(through)
    if update is None:
        return into, found
    assert a is not None and b is not None and inner is not None
    small = times(grad, b.to(grad.dtype).t()).mul_(update.scaling)
    mask = None if update.randomness is None else update.mask(x)
    if wanted[2]:
        found[2] = times(small.t(), (x if mask is None else x * mask).t()).to(a.dtype)
    if wanted[3]:
        found[3] = times(inner.t(), grad.t()).mul_(update.scaling).t().to(b.dtype)
    if input_wanted:
        assert into is not None
        if mask is None:
            into.addmm_(small, a.to(grad.dtype))
        else:
            into.addcmul_(small @ a.to(grad.dtype), mask)
    return into, found
