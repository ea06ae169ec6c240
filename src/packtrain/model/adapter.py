"""LoRA on the linear layers of any transformers causal language model.

y = W x + (alpha / rank) · B (A dropout(x)), with W frozen (https://arxiv.org/abs/2106.09685).
A and B stay in fp32 and are cast to the activations' type where they are used. Names, and the
tensors' layout, are those of peft's files, so that plain peft loads what is saved. DoRA's layer is in
:mod:`packtrain.model.dora`, modules that are trained whole in :mod:`packtrain.model.whole_modules`.

Dropout and initial weights are keyed (:mod:`packtrain.model.randomness`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from packtrain.config import AdapterConfig
from packtrain.errors import ConfigError
from packtrain.model.randomness import Randomness, derived_seed
from packtrain.model.trainable import Trainable
from packtrain.model.whole_modules import WholeModules, train_whole

PEFT_PREFIX = "base_model.model."


class LoraLinear(nn.Module):
    """A frozen linear layer and its trainable update of rank r."""

    def __init__(self, base: nn.Linear | Conv1D, config: AdapterConfig, randomness: Randomness, index: int):
        super().__init__()
        self.base_layer = base
        self.in_features, self.out_features = _features(base)
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(config.rank, self.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, config.rank, device=device))
        self.scaling = scaling(config)
        self.dropout = config.dropout
        self.enabled = True
        self.index = index
        self.randomness = randomness

    def trained(self) -> dict[str, nn.Parameter]:
        """Its trainable tensors, by the ends of their names in peft's file."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}

    def reset_parameters(self, seed: int) -> None:
        """As peft does: A uniform in ±1/√in (Kaiming with a = √5), B zero; drawn on the CPU."""
        bound = 1.0 / math.sqrt(self.in_features)
        generator = torch.Generator().manual_seed(seed)
        values = torch.empty(self.lora_A.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            self.lora_A.copy_(values)
            self.lora_B.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out], in the type of ``x``."""
        result: Tensor = self.base_layer(x)
        if not self.enabled:
            return result
        if self.dropout and self.training:
            shape = torch.Size((x[..., 0].numel(), x.shape[-1]))
            mask = self.randomness.keep_mask(shape, x.device, self.index, self.dropout)
            x = x * mask.view(x.shape).to(x.dtype)
        update = F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        return result + self.scaling * update


def scaling(config: AdapterConfig) -> float:
    """alpha / r, or alpha / √r where it is rank-stabilised (https://arxiv.org/abs/2312.03732)."""
    return config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)


def _features(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    inside, outside = layer.weight.shape
    return inside, outside


@dataclass
class Adapter(Trainable):
    """All LoRA layers of a model, by the path of the layer that they wrap, and modules trained whole."""

    layers: dict[str, LoraLinear]
    saved: WholeModules
    config: AdapterConfig
    randomness: Randomness
    target_modules: list[str]
    """As peft matches them: ends of module paths."""
    layer_numbers: list[int] | None = None
    """The decoder layers that ``target_modules`` are meant in, where it is not all of them."""

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """By the names that they have in peft's file."""
        lora = {
            f"{PEFT_PREFIX}{path}.{end}": parameter
            for path, layer in self.layers.items()
            for end, parameter in layer.trained().items()
        }
        return lora | {f"{PEFT_PREFIX}{name}": weight for name, weight in self.saved.trained().items()}

    def learning_rates(self) -> dict[str, float]:
        """LoRA+ (https://arxiv.org/abs/2402.12354): B, and as in peft what is no matrix, goes faster."""
        ratio = self.config.loraplus_lr_ratio
        return {
            name: ratio if name.endswith(".lora_B.weight") or parameter.ndim == 1 else 1.0
            for name, parameter in self.named_parameters().items()
        }

    def round_saved(self) -> None:
        """Let the modules that are trained whole be what the base's type can hold, as peft loads them."""
        self.saved.round()

    def published(self) -> dict[str, Tensor]:
        """:meth:`tensors`, each in the type that plain peft has it in."""
        types = {f"{PEFT_PREFIX}{name}": dtype for name, dtype in self.saved.types().items()}
        return {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in self.tensors().items()}

    def train(self, training: bool) -> None:
        """Dropout on or off. The frozen base always stays in eval mode."""
        for layer in self.layers.values():
            layer.training = training

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model, as if there were no adapter."""
        for layer in self.layers.values():
            layer.enabled = False
        try:
            with self.saved.as_before():
                yield
        finally:
            for layer in self.layers.values():
                layer.enabled = True

    def peft_config(self) -> dict[str, Any]:
        """Arguments of ``peft.LoraConfig`` for this adapter."""
        config, alpha = self.config, self.config.alpha
        more = {
            "use_rslora": config.rslora,
            "use_dora": config.kind == "dora",
            "modules_to_save": sorted(config.modules_to_save),
            "layers_to_transform": self.layer_numbers,
        }
        return {key: value for key, value in more.items() if value} | {
            "r": config.rank,
            "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
            "lora_dropout": config.dropout,
            "target_modules": self.target_modules,
            "fan_in_fan_out": any(isinstance(layer.base_layer, Conv1D) for layer in self.layers.values()),
            "bias": "none",
            "task_type": "CAUSAL_LM",
        }

    def remove(self, model: PreTrainedModel) -> None:
        """Take the layers out again: ``model`` is the base that it was, in the same memory."""
        for path, layer in self.layers.items():
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.base_layer)
        self.saved.remove()


def add_adapter(model: PreTrainedModel, config: AdapterConfig, seed: int) -> Adapter:
    """Freeze ``model`` and put a LoRA layer around each target; nothing changes until B does.

    Errors: :class:`ConfigError` for a target that names no linear layer, a decoder layer that is not
    there, or a module to save that is neither the embeddings nor the head.
    """
    linear = _linear_layers(model)
    chosen = _choose(linear, config, model)
    model.requires_grad_(False)
    model.eval()
    randomness = Randomness(seed)
    kind: type[LoraLinear] = LoraLinear
    if config.kind == "dora":
        from packtrain.model.dora import DoraLinear

        kind = DoraLinear
    layers = {}
    for index, path in enumerate(chosen):
        layer = kind(linear[path], config, randomness, index)
        layer.reset_parameters(derived_seed("lora_A", seed, path))
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
        layer.eval()
        layers[path] = layer
    saved = train_whole(model, config.modules_to_save)
    names, numbers = _target_names(chosen, linear, config)
    return Adapter(layers, saved, config, randomness, names, numbers)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute each decoder layer in the backward pass instead of keeping its activations.

    Dropout is keyed, so there is no state of a random number generator to keep. transformers does
    this only in layers in training mode; those layers alone are put in it, not what is in them.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"train.activation_checkpointing: {type(model).__name__} does not support it",
            hint="set it to false",
        )
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False}
    )
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    """All linear layers but the head, which peft's ``all-linear`` leaves out too."""
    head = model.get_output_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def _choose(
    linear: dict[str, nn.Linear | Conv1D], config: AdapterConfig, model: PreTrainedModel
) -> list[str]:
    targets = [""] if config.targets == "all-linear" else list(config.targets)
    for target in targets:
        if not any(_matches(path, target) for path in linear):
            names = ", ".join(sorted({path.rpartition(".")[2] for path in linear}))
            raise ConfigError(
                f"adapter.targets: {target} names no linear layer of {type(model).__name__}",
                hint=f"its linear layers are {names}; all-linear takes them all",
            )
    chosen = [path for path in linear if any(_matches(path, target) for target in targets)]
    if config.layers == "all":
        return chosen
    there = {number for path in linear if (number := _layer_number(path)) is not None}
    for wanted in config.layers:
        if wanted not in there:
            raise ConfigError(
                f"adapter.layers: {type(model).__name__} has no layer {wanted}",
                hint=f"its layers are 0 to {max(there, default=0)}",
            )
    chosen = [path for path in chosen if _layer_number(path) in config.layers]
    if not chosen:
        raise ConfigError(
            f"adapter.targets: nothing that they name is in the layers {config.layers}",
            hint="adapter.layers takes the decoder layers that adapter.targets are in",
        )
    return chosen


def _layer_number(path: str) -> int | None:
    """Of the decoder layer that a module is in, as peft reads it from the path."""
    found = re.search(r"\.(?:layers|h|blocks?)\.(\d+)\.", path)
    return int(found[1]) if found else None


def _matches(path: str, target: str) -> bool:
    return not target or path == target or path.endswith(f".{target}")


def _target_names(
    chosen: list[str], linear: dict[str, nn.Linear | Conv1D], config: AdapterConfig
) -> tuple[list[str], list[int] | None]:
    """Short names where they mean exactly the chosen layers (servers such as vLLM want those)."""
    numbers = None if config.layers == "all" else sorted(set(config.layers))
    leaves = sorted({path.rpartition(".")[2] for path in chosen})
    meant = [
        path
        for path in linear
        if any(_matches(path, leaf) for leaf in leaves)
        and (numbers is None or _layer_number(path) in numbers)
    ]
    return (leaves, numbers) if meant == chosen else (sorted(chosen), None)
