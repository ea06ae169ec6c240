"""The model of a set-up without content, with all or a few of its layers, ready to be trained.

As a run makes it (:mod:`packtrain.run.spread`), or as transformers' Trainer with peft does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from packtrain.config import AdapterConfig
from packtrain.data.batches import MicroBatch
from packtrain.errors import ConfigError
from packtrain.model.adapter import add_adapter, checkpoint_activations
from packtrain.model.full import FullModel
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import shard
from packtrain.model.quiet import quiet_transformers
from packtrain.model.randomness import Randomness
from packtrain.plan import described
from packtrain.plan.selection import checkpoint_selectively
from packtrain.plan.setup import Setup


def model_config(setup: Setup, layers: int | None = None) -> Any:
    """transformers' config, cut to ``layers``. Errors: :class:`ConfigError`."""
    plain = json.loads(setup.model)
    kind = plain.pop("model_type", None)
    try:
        found = AutoConfig.for_model(kind, **plain)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ConfigError(
            f"plan: the model's config.json cannot be used ({str(error).splitlines()[0]})"
        ) from error
    text = found.get_text_config()
    if layers is not None:
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    return found


def build_model(setup: Setup, layers: int | None = None) -> PreTrainedModel:
    """The base without content, in the type that it stands in."""
    dtype = setup.trained_dtype if setup.adapter.kind == "none" else setup.dtype
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            model_config(setup, layers), dtype=getattr(torch, dtype)
        )
    except ValueError as error:
        raise ConfigError(f"plan: {str(error).splitlines()[0]}") from error
    return model


def layer_types(setup: Setup) -> list[str | None]:
    """Of each layer; None where there is one type."""
    return list(getattr(model_config(setup).get_text_config(), "layer_types", None) or [None] * setup.layers)


def layer_turn(setup: Setup) -> int:
    """After how many layers their types come again."""
    types = layer_types(setup)
    for turn in range(1, len(types)):
        if all(one == other for one, other in zip(types, types[turn:], strict=False)):
            return turn
    return 1


def parameters(setup: Setup) -> int:
    """How many weights the whole model has."""
    return _parameters(Setup(model=setup.model))


@functools.lru_cache(maxsize=16)
def _parameters(setup: Setup) -> int:
    with quiet_transformers(), torch.device("meta"):
        model = build_model(setup)
    return sum(parameter.numel() for parameter in model.parameters())


def stored_size(setup: Setup) -> int:
    """Bytes of a weight in the model's files, as its config.json says."""
    config = model_config(setup)
    dtype = config.dtype or config.get_text_config().dtype or torch.float32
    return int(getattr(torch, dtype).itemsize if isinstance(dtype, str) else dtype.itemsize)


@dataclass(frozen=True)
class Built:
    """What one of the ways to build a set-up gives."""

    model: PreTrainedModel
    layers: list[nn.Module]
    parameters: Callable[[], list[nn.Parameter]]
    """Those that are trained."""
    forward: Callable[[], Tensor]


def ours(setup: Setup, layers: int, mesh: DeviceMesh | None) -> Built:
    """As :func:`packtrain.run.spread.spread_model` does."""
    model = build_model(setup, layers)
    decoder = blocks(model)
    batch = _batch(setup)
    compute = getattr(torch, setup.dtype) if setup.dtype != setup.trained_dtype else None
    trainable: Any
    if setup.adapter.kind == "none":
        model.requires_grad_(True)
        model.eval()
        trainable = FullModel(model, Randomness(0))
    else:
        compute = None
        trainable = add_adapter(model, _adapter_config(setup), 0)
        if setup.adapter.kind == "qlora":
            described.quantise(model)
    if setup.checkpointing:
        checkpoint_activations(model)
    loss = CausalLoss.of(model)
    if setup.device == "cuda":
        described.use_attention(model, setup.attention, document_lengths(setup))
    if mesh is not None:
        shard(loss, decoder, mesh, compute)
    else:
        loss.compute = compute
    trainable.train(True)
    trainable.randomness.bins = batch.bins

    def forward() -> Tensor:
        if setup.loss == "linear":
            result: Tensor = loss(batch)
            return result
        hidden = loss.hidden(replace(batch, target_positions=torch.arange(setup.tokens)))
        return _other_loss(
            setup, hidden.view(setup.micro_batch, setup.length, -1), loss.head, batch.input_ids
        )

    return Built(model, decoder, trainable.parameters, forward)


def theirs(setup: Setup, layers: int, mesh: DeviceMesh | None) -> Built:
    """As transformers' Trainer with peft: rows of a batch, dropout as they have it."""
    # peft moves what it makes to the base's type and place, which only "meta" lets it do without content.
    with _real(), torch.device("meta"):
        model = build_model(setup, layers)
        trained: Any = model
        if setup.adapter.kind != "none":
            import peft

            adapter = setup.adapter
            trained = peft.get_peft_model(
                model,
                peft.LoraConfig(
                    r=adapter.rank,
                    lora_dropout=adapter.dropout,
                    target_modules=list(adapter.targets) or "all-linear",
                    layers_to_transform=list(adapter.layers) or None,
                    task_type="CAUSAL_LM",
                ),
            )
    trained.to_empty(device="cpu")
    model.tie_weights()
    if setup.adapter.kind == "qlora":
        described.quantise(model)
    described.gpu_dropout(trained)
    trained.train()
    if setup.checkpointing == "selective":
        checkpoint_selectively(blocks(model))
    elif setup.checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    described.use_attention(model, setup.attention, document_lengths(setup))
    whole, decoder = _TheirLoss(setup, model), blocks(model)
    if mesh is not None:
        trained_in = setup.trained_dtype if setup.adapter.kind == "none" else setup.dtype
        shard(whole, decoder, mesh, getattr(torch, setup.dtype) if trained_in != setup.dtype else None)
    if setup.fsdp1 and setup.adapter.kind != "none":
        described.hold_inputs(decoder)
    ids = torch.zeros(setup.micro_batch, setup.length, dtype=torch.long)
    return Built(
        model, decoder, lambda: [p for p in trained.parameters() if p.requires_grad], lambda: whole(ids)
    )


class _TheirLoss(nn.Module):
    """Backbone, head and loss in one module, so that what shards it sees one forward."""

    def __init__(self, setup: Setup, model: PreTrainedModel) -> None:
        super().__init__()
        self.setup, self.backbone, self.head = setup, model.base_model, model.get_output_embeddings()

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.zeros(1, self.setup.length, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.setup.autocast):
            output = self.backbone(input_ids=ids, position_ids=positions, use_cache=False)
            return _other_loss(self.setup, output.last_hidden_state, self.head, ids)


def _other_loss(setup: Setup, hidden: Tensor, head: Any, ids: Tensor) -> Tensor:
    """The loss of every token, as it is taken elsewhere. ``hidden`` [B, L, C]."""
    if setup.loss == "plain":
        return described.plain_loss(hidden, head, ids)
    if setup.loss == "fused":
        return described.fused_loss(hidden, head)
    return described.linear_loss(hidden.view(-1, hidden.shape[-1]), head.weight, ids.view(-1))


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's layers, in order."""
    kinds = set(model._no_split_modules or [])
    return [module for module in model.modules() if type(module).__name__ in kinds]


def _adapter_config(setup: Setup) -> AdapterConfig:
    adapter = setup.adapter
    targets: Any = list(adapter.targets) or "all-linear"
    return AdapterConfig(
        kind=adapter.kind,
        rank=adapter.rank,
        dropout=adapter.dropout,
        targets=targets,
        modules_to_save=list(adapter.modules_to_save),
        layers=list(adapter.layers) or "all",
    )


def document_lengths(setup: Setup) -> tuple[int, ...]:
    """Of each document of a micro-batch."""
    each, rest = divmod(setup.length, min(setup.documents, setup.length))
    one = [each + (number < rest) for number in range(setup.length // each if each else 1)]
    return tuple(one[: min(setup.documents, setup.length)]) * setup.micro_batch


def _batch(setup: Setup) -> MicroBatch:
    """Whole sequences; the first of the tokens stand for those that have a loss."""
    lengths = document_lengths(setup)
    with _real():
        bounds = torch.tensor(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    tokens = torch.zeros(setup.tokens, dtype=torch.long)
    wanted = torch.zeros(max(1, round(setup.supervised * setup.tokens)), dtype=torch.long)
    ends = [(number + 1) * setup.length for number in range(setup.micro_batch)]
    return MicroBatch(
        input_ids=tokens,
        position_ids=torch.zeros_like(tokens),
        cu_seqlens=bounds,
        target_positions=wanted,
        targets=torch.zeros_like(wanted),
        bins=tuple((number, end - setup.length, end) for number, end in enumerate(ends)),
        rows=np.arange(len(lengths)),
        longest=max(lengths),
    )


@contextmanager
def _real() -> Iterator[None]:
    """Tensors with content: where documents begin decides how the work is done."""
    with unset_fake_temporarily():
        yield
