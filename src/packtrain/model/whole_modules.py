"""Embeddings or a head that are trained whole beside an adapter (peft's ``modules_to_save``).

The module stays where it is and gets another weight: a copy in fp32, whose updates bfloat16 could not
hold. The base's own is kept for answering as the base. Where both are one tensor in the base, a trained
copy is a tensor of its own: they are no longer tied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from packtrain.errors import ConfigError


@dataclass
class WholeModules:
    """The modules by their paths, and the weights that they had."""

    modules: dict[str, nn.Module]
    before: dict[str, nn.Parameter]
    hooks: list[Any]

    def trained(self) -> dict[str, nn.Parameter]:
        """By the names that they have in the base."""
        return {f"{path}.weight": module.get_parameter("weight") for path, module in self.modules.items()}

    def types(self) -> dict[str, torch.dtype]:
        """That each weight has in the base."""
        return {f"{path}.weight": weight.dtype for path, weight in self.before.items()}

    @torch.no_grad()
    def round(self) -> None:
        """Let each trained weight be the nearest that the base's type has; it stays in fp32."""
        types = self.types()
        for name, weight in self.trained().items():
            weight.copy_(weight.to(types[name]))

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """The base's own weights while this is entered."""
        trained = {path: module.get_parameter("weight") for path, module in self.modules.items()}
        self._put(self.before)
        try:
            yield
        finally:
            self._put(trained)

    def remove(self) -> None:
        """The base's own weights for good."""
        self._put(self.before)
        for hook in self.hooks:
            hook.remove()

    def _put(self, weights: dict[str, nn.Parameter]) -> None:
        for path, module in self.modules.items():
            module.register_parameter("weight", weights[path])


def train_whole(model: PreTrainedModel, names: Sequence[str]) -> WholeModules:
    """Make the modules that ``names`` are the ends of trainable: the embeddings, the head or both.

    Errors: :class:`ConfigError` for a name of something else.
    """
    found = WholeModules({}, {}, [])
    known = (model.get_input_embeddings(), model.get_output_embeddings())
    paths = {path: module for path, module in model.named_modules() if any(module is each for each in known)}
    for name in names:
        path = next((path for path in paths if path == name or path.endswith(f".{name}")), None)
        if path is None:
            raise ConfigError(
                f"adapter.modules_to_save: {name} is neither the embeddings nor the head of "
                f"{type(model).__name__}",
                hint=f"they are {' and '.join(path.rpartition('.')[2] for path in paths)}",
            )
        module = found.modules[path] = paths[path]
        weight = found.before[path] = module.get_parameter("weight")
        if weight.dtype != torch.float32:
            found.hooks.append(_bridge(module, weight.dtype))
    for path, module in found.modules.items():
        copy = found.before[path].detach().to(torch.float32, copy=True)
        module.register_parameter("weight", nn.Parameter(copy))
    return found


def _bridge(module: nn.Module, dtype: torch.dtype) -> Any:
    """Between a weight in fp32 and a model that computes in ``dtype``."""

    def narrowed(_module: nn.Module, _inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out.to(dtype)

    def widened(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].to(module.get_parameter("weight").dtype), *inputs[1:])

    if isinstance(module, nn.Embedding):
        return module.register_forward_hook(narrowed)
    return module.register_forward_pre_hook(widened)
