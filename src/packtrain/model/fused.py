"""Decoder layers of Llama's shape run by our own kernels; any other layer is left as it is.

What a layer is, its code says, not its name: a layer is taken where the forward functions of the
layer, its attention, its norms and its MLP are Llama's to the instruction (transformers generates the
code of most models from Llama's), or one of the two known variants of the attention (Mistral's and
Qwen's window, Qwen 3's norms of heads), and its linear layers are plain ones, with or without LoRA.
It works without weights too, on the meta device.

Generating with a cache, and comparing with the model's own way, go through the modules themselves:
see :func:`modules_own_way`. :func:`compile_layers` has torch.compile make one program of what stands
before a layer's attention and one of what stands behind it, for all layers and all lengths.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama as llama

from packtrain.model.kernels import GatedMlp, Output, Project, Settings
from packtrain.model.linears import knows, tensors_of, update_of

#: Model types whose attention's code is known: they differ in the window, in norms of each head, and in
#: whether a layer rotates at all.
FORMS = ("llama", "qwen2", "qwen3", "mistral", "smollm3")


@dataclass(frozen=True)
class Halves:
    """What a layer does before its attention, and behind it."""

    before: Callable[..., tuple[Tensor, Tensor, Tensor]]
    after: Callable[..., Tensor]


def use_fused_layers(model: PreTrainedModel) -> int:
    """Let each decoder layer that is known run by our kernels; how many those are."""
    known = [module for module in model.modules() if _is_known(module)]
    for layer in known:
        object.__setattr__(layer, "forward", partial(_forward, layer, Halves(_before, _after)))
    return len(known)


def compile_layers(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> int:
    """Let torch.compile make programs of the layers that run by our kernels; how many those are.

    One of each half, whatever the number of tokens (dynamic sizes) and of layers; another for the lowest
    layer, whose input wants no gradient, and another without gradients. Attention stays as it is: one
    kernel on a GPU, and the only part whose work depends on where documents begin.
    """
    halves = Halves(
        torch.compile(_before, dynamic=True, fullgraph=True, backend=backend),
        torch.compile(_after, dynamic=True, fullgraph=True, backend=backend),
    )
    taken = [module for module in model.modules() if _is_taken(module)]
    for layer in taken:
        object.__setattr__(layer, "forward", partial(_forward, layer, halves))
    return len(taken)


@contextmanager
def modules_own_way(model: nn.Module) -> Iterator[None]:
    """Within, every layer's own forward runs, as transformers has it."""
    taken = [(module, module.__dict__.pop("forward")) for module in model.modules() if _is_taken(module)]
    try:
        yield
    finally:
        for module, forward in taken:
            module.forward = forward


def _is_taken(module: nn.Module) -> bool:
    return getattr(module.__dict__.get("forward"), "func", None) is _forward


def _is_known(layer: nn.Module) -> bool:
    if not isinstance(layer, GradientCheckpointingLayer) or not _same(layer, llama.LlamaDecoderLayer):
        return False
    attention, mlp, norm = layer.self_attn, layer.mlp, layer.input_layernorm
    if not (isinstance(attention, nn.Module) and isinstance(mlp, nn.Module) and _same(mlp, llama.LlamaMLP)):
        return False
    norms = [norm, layer.post_attention_layernorm]
    norms += [module for name, module in attention.named_children() if name.endswith("norm")]
    return (
        _attention_form(type(attention).forward) is not None
        and isinstance(mlp.act_fn, nn.SiLU | SiLUActivation)
        and all(_same(each, llama.LlamaRMSNorm) for each in norms)
        and len({each.variance_epsilon for each in norms}) == 1
        and all(knows(linear) for linear in (*_linears(attention, "qkvo"), *_mlp_linears(mlp)))
    )


def _linears(attention: nn.Module, which: str) -> list[nn.Module]:
    return [attention.get_submodule(f"{name}_proj") for name in which]


def _mlp_linears(mlp: nn.Module) -> list[nn.Module]:
    return [mlp.get_submodule(name) for name in ("gate_proj", "up_proj", "down_proj")]


@cache
def _attention_form(forward: Callable[..., Any]) -> str | None:
    """Whose code an attention's forward is; None where it is nobody's that is known."""
    rotary = inspect.unwrap(forward).__globals__.get("apply_rotary_pos_emb")
    if rotary is None or not _same_code(rotary, llama.apply_rotary_pos_emb):
        return None
    if not _same_code(inspect.unwrap(rotary).__globals__["rotate_half"], llama.rotate_half):
        return None
    for form in FORMS:
        # Only as many are imported as are looked at.
        module = importlib.import_module(f"transformers.models.{form}.modeling_{form}")
        (own,) = (kind for name, kind in vars(module).items() if name.lower() == f"{form}attention")
        if _same_code(forward, own.forward):
            return form
    return None


def _same(module: nn.Module, kind: type[nn.Module]) -> bool:
    return _same_code(type(module).forward, kind.forward)


def _same_code(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions do the same, instruction for instruction."""
    codes: list[CodeType] = [inspect.unwrap(function).__code__ for function in (one, other)]
    seen = [
        (code.co_code, code.co_names, [const for const in code.co_consts if not isinstance(const, str)])
        for code in codes
    ]
    return seen[0] == seen[1]


def _window(attention: Any) -> int | None:
    """How many tokens a token sees, as the module's own forward says it."""
    form = _attention_form(type(attention).forward)
    if form == "llama":
        return None
    window: int | None = attention.config.sliding_window if form == "mistral" else attention.sliding_window
    return window


def _forward(
    layer: Any,
    halves: Halves,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    **kwargs: Any,
) -> Tensor:
    """A layer's forward: what the kernels do not do is done by the layer itself."""
    one_sequence = hidden_states.shape[0] == 1 and attention_mask is None and past_key_values is None
    same_type = layer.input_layernorm.weight.dtype == hidden_states.dtype
    if not one_sequence or not same_type or torch.is_autocast_enabled(hidden_states.device.type):
        result: Tensor = type(layer).forward(
            layer,
            hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        return result
    run: Callable[[Tensor], Tensor] = partial(_run, layer, halves, position_embeddings, **kwargs)
    if layer.gradient_checkpointing and layer.training:
        run = partial(layer._gradient_checkpointing_func, run)
    return run(hidden_states)


def _run(
    layer: Any,
    halves: Halves,
    position_embeddings: tuple[Tensor, Tensor],
    hidden_states: Tensor,
    **kwargs: Any,
) -> Tensor:
    attention = layer.self_attn
    rotated = getattr(attention, "use_rope", True)
    cos, sin = (each[0].unsqueeze(1) for each in position_embeddings) if rotated else (None, None)
    hidden = hidden_states[0]
    made = halves.before(layer, hidden, cos, sin)
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    attended, _ = attend(
        attention,
        *(each.transpose(0, 1).unsqueeze(0) for each in made),
        None,
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
        sliding_window=_window(attention),
        **kwargs,
    )
    return halves.after(layer, attended.reshape(len(hidden), -1), hidden)


def _before(
    layer: Any, hidden: Tensor, cos: Tensor | None, sin: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [T, H, D] of ``hidden`` [T, C]; ``cos`` and ``sin`` [T, 1, D] rotate them."""
    attention, norm = layer.self_attn, layer.input_layernorm
    head_norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    linears = _linears(attention, "qkv")
    made: tuple[Tensor, Tensor, Tensor] = Project.apply(
        Settings(norm.variance_epsilon, attention.head_dim, tuple(map(update_of, linears))),
        hidden,
        norm.weight,
        cos,
        sin,
        *(None if each is None else each.weight for each in head_norms),
        *(tensor for linear in linears for tensor in tensors_of(linear)),
    )
    return made


def _after(layer: Any, attended: Tensor, residual: Tensor) -> Tensor:
    """The layer's output [1, T, C], from what attention gave [T, H·D] and the layer's input [T, C]."""
    last, norm = layer.self_attn.o_proj, layer.post_attention_layernorm
    hidden = Output.apply(update_of(last), attended, residual, *tensors_of(last))
    linears = _mlp_linears(layer.mlp)
    out: Tensor = GatedMlp.apply(
        Settings(norm.variance_epsilon, 0, tuple(map(update_of, linears))),
        hidden,
        norm.weight,
        *(tensor for linear in linears for tensor in tensors_of(linear)),
    )
    return out
