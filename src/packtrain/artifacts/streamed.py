"""A model that reads each weight from disk when it computes with it, and forgets it again.

So a model that is larger than memory says its logits on a short text: slowly, and in float32 whatever
its files have. With an adapter, plain peft computes them: what is compared with it was made by other code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from packtrain.artifacts.deltas import PREFIX
from packtrain.artifacts.merged import BLOCK, Layout, Weights
from packtrain.config import ModelConfig
from packtrain.errors import ConfigError
from packtrain.model.quiet import quiet_transformers
from packtrain.model.weights import BaseFiles, checked_config


def skeleton(base: BaseFiles) -> PreTrainedModel:
    """The base's model, whose parameters have shapes and no memory. Errors: :class:`ConfigError`.

    peft opens an adapter on it as on any other (:func:`~packtrain.artifacts.peft_model.open_with_peft`).
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with quiet_transformers():
        config = checked_config(base, ModelConfig(source=base.source))
        # Buffers (positions) are made for good: no file has them.
        with no_init_weights(), init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for key, value in module._parameters.items():
            if value is not None:
                # On the CPU, all elements in one place: peft would bring its own to the device "meta".
                empty = nn.Parameter(torch.zeros(()).expand(value.shape), requires_grad=False)
                module._parameters[key] = made.setdefault(id(value), empty)
    return model.eval()


def make_room(model: PreTrainedModel, parameters: Iterable[str]) -> None:
    """Memory for these parameters of a skeleton: peft reads them from the adapter's file."""
    for parameter in parameters:
        path, _, key = parameter.rpartition(".")
        module = model.get_submodule(path)
        shape = module._parameters[key].shape
        module._parameters[key] = nn.Parameter(torch.zeros(shape), requires_grad=False)


def layout(model: PreTrainedModel) -> Layout:
    """Of a model that :func:`skeleton` made."""
    head, paths = model.get_output_embeddings(), {id(module): path for path, module in model.named_modules()}
    linear = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    head_path = None if head is None else paths[id(head)]
    return Layout(
        embedding=paths[id(model.get_input_embeddings())],
        head=head_path,
        tied=bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)),
        linear=frozenset(linear - {head_path}),
        prefix=model.base_model_prefix,
    )


def logits(model: Any, weights: Weights, of: Layout, ids: Tensor) -> Tensor:
    """What a skeleton, with or without peft's layers, says with these weights: [T, V] for ``ids`` [T]."""
    with _streaming(model, weights, of), torch.inference_mode():
        said: Tensor = model(input_ids=ids[None], use_cache=False).logits[0].float()
    return said


@contextmanager
def _streaming(model: nn.Module, weights: Weights, of: Layout) -> Iterator[None]:
    undo: list[Callable[[], object]] = []
    inside: set[str] = set()
    try:
        for path, module in model.named_modules():
            names = {key: _stored(f"{path}.{key}", weights, of) for key in _empty(module)}
            if getattr(module, "base_layer", None) is not None and _is_linear(module.base_layer):
                # peft's layer looks at its base's weight itself.
                wrapped = f"{path}.base_layer"
                names = {key: _stored(f"{wrapped}.{key}", weights, of) for key in _empty(module.base_layer)}
                inside.add(wrapped)
                undo += _whole(module, module.base_layer, names, weights)
            elif path in inside or not names:
                continue
            elif isinstance(module, nn.Embedding):
                undo += _some_rows(module, names["weight"], weights)
            elif type(module) is nn.Linear:
                module.__dict__["forward"] = _in_blocks(module, names, weights)
                undo.append(partial(module.__dict__.pop, "forward"))
            else:
                undo += _whole(module, module, names, weights)
        yield
    finally:
        for each in undo:
            each()


def _empty(module: nn.Module) -> list[str]:
    values = ((key, value) for key, value in module._parameters.items() if value is not None)
    return [key for key, value in values if value.dim() and not any(value.stride())]


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _stored(path: str, weights: Weights, of: Layout) -> str:
    parameter = path.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".original_module.", ".")
    name = of.stored(parameter, weights.tensors)
    if name is None:
        raise ConfigError(f"{parameter}: is in no file of the model", hint="fetch the model again")
    return name


def _whole(
    outer: nn.Module, holder: nn.Module, names: dict[str, str], weights: Weights
) -> list[Callable[[], object]]:
    """``holder``'s parameters are there while ``outer`` computes."""
    empty = {key: holder._parameters[key] for key in names}

    def load(*_: Any) -> None:
        for key, name in names.items():
            holder._parameters[key] = nn.Parameter(weights.read(name).float(), requires_grad=False)

    def forget(*_: Any) -> None:
        holder._parameters.update(empty)

    before = outer.register_forward_pre_hook(load)
    after = outer.register_forward_hook(forget, always_call=True)
    return [before.remove, after.remove, forget]


def _some_rows(module: nn.Embedding, name: str, weights: Weights) -> list[Callable[[], object]]:
    """Only the rows that are looked up are read; the indices then count those."""
    empty = module._parameters["weight"]

    def load(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        wanted, places = torch.unique(args[0], return_inverse=True)
        rows = weights.rows(name, wanted.tolist()).float()
        module._parameters["weight"] = nn.Parameter(rows, requires_grad=False)
        return (places, *args[1:])

    def forget(*_: Any) -> None:
        module._parameters["weight"] = empty

    padding, module.padding_idx = module.padding_idx, None
    before = module.register_forward_pre_hook(load)
    after = module.register_forward_hook(forget, always_call=True)
    return [before.remove, after.remove, forget, lambda: setattr(module, "padding_idx", padding)]


def _in_blocks(module: nn.Linear, names: dict[str, str], weights: Weights) -> Callable[[Tensor], Tensor]:
    """A linear layer some rows at a time: a large vocabulary's head is never held whole."""
    step = max(1, BLOCK // module.in_features)

    def forward(x: Tensor) -> Tensor:
        parts = [
            F.linear(x, weights.read(names["weight"], first, first + step).float())
            for first in range(0, module.out_features, step)
        ]
        result = torch.cat(parts, dim=-1)
        return result + weights.read(names["bias"]).float() if "bias" in names else result

    return forward
