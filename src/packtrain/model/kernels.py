"""The parts of a Llama-shaped decoder layer as autograd functions, with their backward passes written out.

Between them a layer keeps, for each token: its input, queries, keys and values (rotated), what
attention gave, the sum with the residual, gate and up. All else is cheap to make again from these.
Elementwise passes are few and in place. The formulas are those of the modules, in the same precision;
norms are computed in fp32 whatever the type.

Shapes: T tokens, C hidden size, H heads (of queries, or of keys and values), D head size, I inner size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from packtrain.model.linears import EACH, Update, linear, linear_backward


def normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm (https://arxiv.org/abs/1910.07467) over the last dimension, and 1 / RMS in fp32 [..., 1]."""
    wide = x.float()
    size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * inverse).to(x.dtype) * weight, inverse


def again(x: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """What :func:`normalise` gave, from the 1 / RMS that it gave."""
    return (x.float() * inverse).to(x.dtype).mul_(weight)


def normalise_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, *, weight_wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and weight."""
    wide = x.float()
    weight_grad = None
    if weight_wanted:
        dims = tuple(range(x.ndim - 1))
        weight_grad = (grad * (wide * inverse).to(x.dtype)).sum(dims)
    scaled = (grad * weight).float()
    along = torch.linalg.vecdot(scaled, wide).unsqueeze(-1)
    factor = along.mul_(inverse.pow(3)).div_(-x.shape[-1])
    return scaled.mul_(inverse).addcmul_(wide, factor).to(x.dtype), weight_grad


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (https://arxiv.org/abs/2104.09864): x [T, H, D], cos and sin [T, 1, D]."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = x * cos
    out[..., :half].addcmul_(second, sin[..., :half], value=-1)
    out[..., half:].addcmul_(first, sin[..., half:])
    return out


def rotate_backward(grad: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = grad.shape[-1] // 2
    first, second = grad[..., :half], grad[..., half:]
    out = grad * cos
    out[..., :half].addcmul_(second, sin[..., half:])
    out[..., half:].addcmul_(first, sin[..., :half], value=-1)
    return out


@dataclass(frozen=True)
class Settings:
    """What is no tensor in a part of a layer."""

    eps: float
    head: int
    """D; of no meaning to the MLP."""
    updates: tuple[Update | None, ...]
    """Of its linear layers."""


def _parts(tensors: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
    return [tensors[EACH * number : EACH * (number + 1)] for number in range(count)]


class Project(torch.autograd.Function):
    """Norm, then queries, keys and values [T, H, D], the first two normalised (if so) and rotated."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: Settings,
        hidden: Tensor,
        norm: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, inverse = normalise(hidden, norm, settings.eps)
        made, inners, before = [], [], []
        for parts, update in zip(_parts(tensors, 3), settings.updates, strict=True):
            y, inner = linear(x, parts, update)
            made.append(y.view(len(y), -1, settings.head))
            inners.append(inner)
        for number, weight in enumerate((q_norm, k_norm)):
            y = made[number]
            if weight is not None:
                normed, size = normalise(y, weight, settings.eps)
                before += [y, size]
                y = normed
            made[number] = y if cos is None or sin is None else rotate(y, cos, sin)
        ctx.settings = settings
        ctx.save_for_backward(hidden, norm, inverse, cos, sin, q_norm, k_norm, *inners, *tensors, *before)
        return made[0], made[1], made[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        settings: Settings = ctx.settings
        hidden, norm, inverse, cos, sin, q_norm, k_norm, *rest = ctx.saved_tensors
        inners, tensors, before = rest[:3], rest[3 : 3 + 3 * EACH], rest[3 + 3 * EACH :]
        wanted = ctx.needs_input_grad
        x = again(hidden, norm, inverse)
        below = wanted[1] or wanted[2]
        head_norms: list[Tensor | None] = [None, None]
        into: Tensor | None = None
        found: list[Tensor | None] = []
        for number, (parts, update) in enumerate(zip(_parts(tensors, 3), settings.updates, strict=True)):
            grad = grads[number]
            if number < 2:
                grad = grad if cos is None else rotate_backward(grad, cos, sin)
                weight = (q_norm, k_norm)[number]
                if weight is not None:
                    y, size = before[2 * number : 2 * number + 2]
                    grad, head_norms[number] = normalise_backward(
                        grad, y, weight, size, weight_wanted=wanted[5 + number]
                    )
            start = 7 + EACH * number
            into, each = linear_backward(
                grad.reshape(len(grad), -1),
                x,
                inners[number],
                parts,
                update,
                wanted[start : start + EACH],
                into,
                input_wanted=below,
            )
            found += each
        hidden_grad = norm_grad = None
        if into is not None:
            hidden_grad, norm_grad = normalise_backward(into, hidden, norm, inverse, weight_wanted=wanted[2])
        return None, hidden_grad, norm_grad, None, None, *head_norms, *found


class Output(torch.autograd.Function):
    """The linear layer after attention, added to the residual [T, C]."""

    @staticmethod
    def forward(
        ctx: Any, update: Update | None, attended: Tensor, residual: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        y, inner = linear(attended, tensors, update, onto=residual)
        ctx.update = update
        ctx.save_for_backward(attended, inner, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        attended, inner, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        below, found = linear_backward(
            grad,
            attended,
            inner,
            tuple(tensors),
            ctx.update,
            wanted[3:],
            None,
            input_wanted=wanted[1],
        )
        return None, below, grad, *found


class GatedMlp(torch.autograd.Function):
    """Norm, gate, up, SiLU(gate) · up (https://arxiv.org/abs/2002.05202), down, added to its input.

    From [T, C] to [1, T, C], as a model has it.
    """

    @staticmethod
    def forward(
        ctx: Any, settings: Settings, hidden: Tensor, norm: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        gate_parts, up_parts, down_parts = _parts(tensors, 3)
        x, inverse = normalise(hidden, norm, settings.eps)
        gate, gate_inner = linear(x, gate_parts, settings.updates[0])
        up, up_inner = linear(x, up_parts, settings.updates[1])
        y, down_inner = linear(F.silu(gate).mul_(up), down_parts, settings.updates[2], onto=hidden)
        ctx.settings = settings
        ctx.save_for_backward(hidden, norm, inverse, gate, up, gate_inner, up_inner, down_inner, *tensors)
        return y.unsqueeze_(0)  # in place: FSDP's hooks want a layer's output to be no view

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad = grads[0][0]
        hidden, norm, inverse, gate, up, gate_inner, up_inner, down_inner, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        gate_parts, up_parts, down_parts = _parts(tuple(tensors), 3)
        gate_update, up_update, down_update = ctx.settings.updates
        silu = F.silu(gate)
        inner_grad, down_found = linear_backward(
            grad, silu * up, down_inner, down_parts, down_update, wanted[3 + 2 * EACH :], None
        )
        assert inner_grad is not None
        up_grad = silu.mul_(inner_grad)
        inner_grad.mul_(up)
        gate_grad = torch.ops.aten.silu_backward.grad_input(inner_grad, gate, grad_input=inner_grad)
        x = again(hidden, norm, inverse)
        below = wanted[1] or wanted[2]
        into, gate_found = linear_backward(
            gate_grad, x, gate_inner, gate_parts, gate_update, wanted[3 : 3 + EACH], None, input_wanted=below
        )
        into, up_found = linear_backward(
            up_grad,
            x,
            up_inner,
            up_parts,
            up_update,
            wanted[3 + EACH : 3 + 2 * EACH],
            into,
            input_wanted=below,
        )
        hidden_grad, norm_grad = grad, None
        if into is not None:
            through, norm_grad = normalise_backward(into, hidden, norm, inverse, weight_wanted=wanted[2])
            hidden_grad = through.add_(grad)
        return None, hidden_grad, norm_grad, *gate_found, *up_found, *down_found
