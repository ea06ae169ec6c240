"""What a GPU's kernels, and other people's training code, allocate: stand-ins for the parts that a trace
on this machine cannot run, or that packtrain does another way.

They compute nothing. Their inputs, outputs, what they keep for the backward pass and what they need
meanwhile have the sizes of the original, which each names.

Shapes: B sequences of L tokens, T = B·L, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from packtrain.model.attention import documents_softcapped
from packtrain.plan import selection

#: By kind. (transformers looks for a package where a name has "flash" in it.)
NAMES = {"flash": "packtrain_planned", "sdpa": "packtrain_planned_each", "eager": "packtrain_planned_scores"}
#: Weights of NF4 that share a scale, and scales that share one of their own (bitsandbytes' defaults).
NF4_BLOCK, NF4_NESTED = 64, 256

#: Called with the floating point operations of a kernel that no operator of PyTorch stands for.
on_flops: list[Callable[[float], None]] = []


class _Flash(torch.autograd.Function):
    """FlashAttention-2: the output and a logarithm for each row are kept, no scores.

    https://github.com/Dao-AILab/flash-attention csrc/flash_attn/flash_api.cpp, `mha_varlen_bwd`: a sum in
    fp32 for the queries' gradient, and with fewer key heads a gradient for each query head.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], window: int | None
    ) -> Tensor:
        tokens, heads, size = query.shape
        with selection.attention():
            out, log_sum = torch.empty_like(query), query.new_empty(heads, tokens, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sum)
        seen = sum(length * min(length, window or length) for length in lengths)
        ctx.flops = 4.0 * heads * size * seen
        _count(ctx.flops)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _, log_sum = ctx.saved_tensors
        (grad,) = grads
        grad = grad.contiguous()
        made = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        work = [torch.empty_like(log_sum), torch.empty_like(query, dtype=torch.float32)]
        if query.shape[1] != key.shape[1]:
            work += [torch.empty_like(query), torch.empty_like(query)]
        _count(2.5 * ctx.flops)
        return *made, None, None


def _count(flops: float) -> None:
    for tell in on_flops:
        tell(flops)


def _documents(lengths: tuple[int, ...], together: bool) -> Any:
    """An attention function for transformers; ``together``: one call for all documents."""

    def attention(
        _module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _mask: object,
        *,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if softcap is not None:  # no kernel has this: a GPU does what a CPU does
            with unset_fake_temporarily():
                bounds = torch.tensor([0, *itertools.accumulate(lengths)])
            out = documents_softcapped(query, key, value, bounds, 1.0, sliding_window, softcap)
            return out.transpose(1, 2), None
        shape = query.transpose(1, 2).shape
        flat = [
            part.transpose(1, 2).reshape(-1, part.shape[1], part.shape[3]) for part in (query, key, value)
        ]
        if together:
            return _Flash.apply(*flat, lengths, sliding_window).view(shape), None
        parts = zip(*(part.split(lengths) for part in flat), strict=True)
        outs = [_Flash.apply(*part, (len(part[0]),), sliding_window) for part in parts]
        return torch.cat(outs).view(shape), None

    return attention


def _eager(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: object, **_: Any
) -> tuple[Tensor, None]:
    """As transformers' `eager_attention_forward`: keys and values repeated, scores of L × L in fp32."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    scores = scores + scores.new_empty(scores.shape[-2:])
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


def use_attention(model: PreTrainedModel, kind: str, lengths: tuple[int, ...]) -> None:
    """Let ``model`` attend as on a GPU: ``flash``, ``sdpa`` (a call for each document) or ``eager``."""
    name = NAMES[kind]
    AttentionInterface.register(name, _eager if kind == "eager" else _documents(lengths, kind == "flash"))
    AttentionMaskInterface.register(name, lambda *_args, **_kwargs: None)
    model.set_attn_implementation(name)


class _FusedNorm(torch.autograd.Function):
    """RMSNorm in one kernel: the input is kept, and a number for each row.

    https://github.com/unslothai/unsloth unsloth/kernels/rms_layernorm.py: the gradient is written over
    the one that comes in.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, hidden.new_empty(hidden.shape[:-1], dtype=torch.float32))
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, weight, _ = ctx.saved_tensors
        return grads[0], torch.empty_like(weight) if ctx.needs_input_grad[1] else None


class _FusedRotary(torch.autograd.Function):
    """Rotary embedding in its place (unsloth/kernels/rope_embedding.py): a copy of the input is rotated."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor]:
        return (grads[0].clone(),)


@contextmanager
def fused_norms(model: PreTrainedModel) -> Iterator[None]:
    """Inside, RMSNorm and the rotary embedding of ``model`` are one kernel each."""
    import sys

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _norm_forward(module)
    definition: Any = sys.modules[type(model).__module__]
    before = definition.apply_rotary_pos_emb
    definition.apply_rotary_pos_emb = lambda q, k, *_, **__: (_FusedRotary.apply(q), _FusedRotary.apply(k))
    try:
        yield
    finally:
        definition.apply_rotary_pos_emb = before


def hold_inputs(layers: Iterable[nn.Module]) -> None:
    """As FullyShardedDataParallel does where a layer has frozen parameters, until the backward pass ends.

    Its hook on a layer's inputs (torch/distributed/fsdp/_runtime_utils.py,
    `_register_post_backward_reshard_only_hook`) has them, and the gradients that came for them.
    """
    held: list[Tensor] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hidden = inputs[0]
        if hidden.requires_grad and not any(hidden is one for one in held):
            held.append(hidden)
            hidden.register_hook(held.append)

    for layer in layers:
        layer.register_forward_pre_hook(hook)


def gpu_dropout(model: nn.Module) -> None:
    """Dropout as on a GPU, where a mask of one byte is kept; on a CPU it has the type of what is dropped."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = _dropout_forward(module)  # type: ignore[method-assign,assignment]


def _dropout_forward(module: nn.Dropout) -> Callable[[Tensor], Tensor]:
    def forward(hidden: Tensor) -> Tensor:
        return torch.native_dropout(hidden, module.p, module.training)[0]

    return forward


def _norm_forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(hidden: Tensor) -> Tensor:
        normed: Tensor = _FusedNorm.apply(hidden, module.weight)
        return normed

    return forward


def plain_loss(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """transformers' `ForCausalLMLoss` (4.46 on): all logits, then twice in fp32. ``hidden`` [B, L, C]."""
    given = head(hidden)  # the caller holds on to them
    logits = given.float()
    shifted = logits[..., :-1, :].contiguous()
    return F.cross_entropy(shifted.view(-1, shifted.shape[-1]), targets.view(-1)[: shifted[..., 0].numel()])


class _FusedCrossEntropy(torch.autograd.Function):
    """Logits kept, their gradient written over them (unsloth/kernels/cross_entropy_loss.py)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        losses = logits.new_empty(logits.shape[0])
        ctx.save_for_backward(logits, torch.empty_like(losses))
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        logits: Tensor = ctx.saved_tensors[0]
        return logits


def fused_loss(hidden: Tensor, head: nn.Linear) -> Tensor:
    """All logits in fp32 (as transformers 4.45 hands them on), shifted, and their gradient in place."""
    logits = head(hidden).float()
    shifted = logits[..., :-1, :].contiguous()
    losses: Tensor = _FusedCrossEntropy.apply(shifted.view(-1, shifted.shape[-1]))
    return losses.sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Liger Kernel's fused linear cross entropy (0.4): logits of a part of the tokens at a time.

    https://github.com/linkedin/Liger-Kernel src/liger_kernel/ops/fused_linear_cross_entropy.py
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        tokens, size = hidden.shape
        wanted = -(-tokens // -(-weight.shape[0] // size))
        chunk = 1 << (wanted - 1).bit_length()
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_hidden = torch.zeros_like(hidden)
        losses = hidden.new_zeros(tokens, dtype=torch.float32)
        for start in range(0, tokens, chunk):
            part = hidden[start : start + chunk]
            logits = part @ weight.T
            logits = logits.float()
            logits = logits.to(hidden.dtype)
            grad = logits * 1.0
            grad_hidden[start : start + chunk] = grad @ weight
            if grad_weight is not None:
                torch.addmm(grad_weight, logits.T, part, out=grad_weight)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.saved_tensors, None


def linear_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """``hidden`` [T, C], ``weight`` [V, C], ``targets`` [T]."""
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)
    return loss


class _Nf4Product(torch.autograd.Function):
    """bitsandbytes' `MatMul4Bit`: the weight is unpacked for each product and kept packed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        ctx.packed, ctx.shape, ctx.dtype = packed, shape, dtype
        return F.linear(x.to(dtype), packed.new_empty(shape, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0] @ ctx.packed.new_empty(ctx.shape, dtype=ctx.dtype)
        return grad, None, None, None


class Nf4Linear(nn.Linear):
    """A linear layer of 4-bit weights with doubly quantised scales (bitsandbytes' `Linear4bit`)."""

    def __init__(self, old: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = old.in_features, old.out_features
        self.bias, self.computed = old.bias, old.weight.dtype
        count = old.weight.numel()
        scales = -(-count // NF4_BLOCK)
        self.weight = nn.Parameter(old.weight.new_empty(-(-count // 2), 1, dtype=torch.uint8), False)
        self.scales = old.weight.new_empty(scales, dtype=torch.uint8)
        self.nested = old.weight.new_empty(-(-scales // NF4_NESTED), dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Nf4Product.apply(x, self.weight, (self.out_features, self.in_features), self.computed)
        return out if self.bias is None else out + self.bias


def quantise(model: PreTrainedModel) -> None:
    """Every frozen linear layer but the head in NF4."""
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, Nf4Linear(module))
