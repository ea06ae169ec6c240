"""What decides the memory and the work of a training step, and nothing of clouds, prices or data.

A run file becomes one by :func:`setup_of`, as the run itself would decide it. Other people's set-ups can
be said too (transformers' own loss, flash or plain attention, an optimizer that makes temporary
copies): the planner is held against what they published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from packtrain.errors import ConfigError

if TYPE_CHECKING:
    from packtrain.config import AdapterConfig, RunConfig

Sharding = Literal["none", "fsdp", "hsdp"]
Attention = Literal["flash", "sdpa", "eager"]
Loss = Literal["plain", "fused", "linear"]
Kind = Literal["lora", "dora", "qlora", "none"]
Optimizer = Literal["fused", "foreach"]
Dtype = Literal["bfloat16", "float32"]
Device = Literal["cuda", "cpu"]

#: Tokens in one forward pass where `micro_batch` is auto: enough to keep the machine busy. More does not go
#: faster.
MICRO_TOKENS: dict[Device, int] = {"cpu": 2048, "cuda": 16_384}
#: Share of a device that the base may take and still stand whole on every one (`parallel: auto`).
WHOLE_SHARE = 0.5


@dataclass(frozen=True)
class AdapterSetup:
    """What is trained: matrices of rank ``rank`` beside the targets, or (kind ``none``) every weight."""

    kind: Kind = "lora"
    rank: int = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Ends of module paths; none means every linear layer but the head."""
    modules_to_save: tuple[str, ...] = ()
    """Embeddings or head, trained whole."""
    layers: tuple[int, ...] = ()
    """Decoder layers that the targets are in; none means all."""

    @classmethod
    def of(cls, config: AdapterConfig) -> AdapterSetup:
        if config.kind == "none":
            return cls(kind="none")
        targets = () if config.targets == "all-linear" else tuple(config.targets)
        layers = () if config.layers == "all" else tuple(sorted(set(config.layers)))
        return cls(config.kind, config.rank, config.dropout, targets, tuple(config.modules_to_save), layers)


@dataclass(frozen=True)
class Setup:
    """One micro-batch and one optimizer step on each of ``gpus`` devices. Hashable."""

    model: str
    """The content of the model's config.json."""
    adapter: AdapterSetup = AdapterSetup()
    gpus: int = 1
    gpus_per_node: int = 8
    sharding: Sharding = "none"
    """``fsdp``: over all GPUs; ``hsdp``: over those of a node, the same on every node."""
    attention: Attention = "flash"
    """``flash``: nothing of length × length is kept (on CPU, PyTorch's own kernel); ``sdpa``: the same
    by PyTorch's dispatcher; ``eager``: all scores are."""
    loss: Loss = "linear"
    """``plain``: all logits, and copies of them in fp32; ``fused``: all logits in fp32, their gradient in
    their place; ``linear``: never whole."""
    micro_batch: int = 1
    """Sequences of ``length`` in one forward pass of a GPU."""
    length: int = 2048
    supervised: float = 1.0
    """Share of the tokens that have a loss."""
    documents: int = 1
    """Documents packed into a sequence, of equal length."""
    accumulation: int = 1
    """Micro-batches in a step; gradients stand in memory from the second on."""
    checkpointing: bool | Literal["selective"] = True
    """``selective``, with ``peft``: as :mod:`packtrain.plan.selection` says."""
    fused_norms: bool = False
    """RMSNorm and rotary embedding in one kernel each, which keep their input alone."""
    optimizer: Optimizer = "fused"
    """``foreach``: AdamW with temporary copies of what it updates."""
    dtype: Dtype = "bfloat16"
    """What is computed in; a frozen base stands in it, too."""
    trained_dtype: Dtype = "float32"
    """Of the trained weights, their gradients and AdamW's two moments."""
    device: Device = "cuda"
    peft: bool = False
    """The adapter's layers, and a batch of rows, as transformers' Trainer and peft have them."""
    fsdp1: bool = False
    """With ``peft``: FullyShardedDataParallel, which holds each layer's input, and the gradient of it,
    to the end of the backward pass."""
    autocast: bool = False
    """With ``peft``: the Trainer's `bf16`, which computes in bfloat16 whatever the weights are in."""

    def __post_init__(self) -> None:
        for name in ("gpus", "gpus_per_node", "micro_batch", "length", "documents", "accumulation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"plan: {name} is {getattr(self, name)}; it is at least 1")
        if not 0.0 < self.supervised <= 1.0:
            raise ConfigError(f"plan: supervised is {self.supervised}; it is a share above 0 and at most 1")

    @property
    def tokens(self) -> int:
        """Of one micro-batch of one GPU."""
        return self.micro_batch * self.length

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)

    @property
    def layers(self) -> int:
        return int(text_of(json.loads(self.model))["num_hidden_layers"])


def model_text(model_config: Mapping[str, Any] | Any) -> str:
    """A config.json's content, or a transformers config, as :attr:`Setup.model` holds it."""
    plain = model_config if isinstance(model_config, Mapping) else model_config.to_diff_dict()
    if "model_type" not in plain:
        plain = {**plain, "model_type": getattr(model_config, "model_type", None)}
    return json.dumps(dict(plain), sort_keys=True, default=str)


def setup_of(
    config: RunConfig,
    model_config: Mapping[str, Any] | Any,
    *,
    device: Device = "cuda",
    device_memory: int | None = None,
    gpus: int = 1,
    gpus_per_node: int = 8,
    sharding: Sharding | None = None,
    attention: Attention | None = None,
    loss: Loss | None = None,
    micro_batch: int | None = None,
    length: int | None = None,
    checkpointing: bool | Literal["selective"] | None = None,
    supervised: float = 1.0,
    documents: int = 1,
) -> Setup:
    """What ``config`` would do on ``gpus`` devices; what is None is decided as the run decides it.

    A ``loss`` that is said describes somebody else's training: transformers' Trainer with peft, as what is
    published was measured with (see :func:`_described`). packtrain's own has one loss only.

    ``model_config``: the content of config.json, or transformers' object. ``device_memory`` (bytes of one
    GPU) decides whether a base is sharded where ``train.parallel`` is auto; None: on several GPUs it is.
    ``supervised`` and ``documents`` come from the data; all of the tokens and one document are the most
    that a step can take. Errors: :class:`ConfigError`.
    """
    _check(sharding=(sharding, Sharding), attention=(attention, Attention), loss=(loss, Loss))
    if checkpointing == "selective" and loss is None:
        raise ConfigError(
            "plan.checkpointing: selective is not how packtrain trains",
            hint="with -s plan.loss=plain it describes others' training",
        )
    train, text = config.train, model_text(model_config)
    if length is None:
        length = config.data.max_length
    if micro_batch is None:
        micro_batch = (
            max(1, MICRO_TOKENS[device] // length) if train.micro_batch == "auto" else train.micro_batch
        )
    if checkpointing is None:
        automatic = train.activation_checkpointing
        checkpointing = device == "cuda" if automatic == "auto" else automatic
    computed = config.model.dtype
    dtype: Dtype = ("bfloat16" if device == "cuda" else "float32") if computed == "auto" else computed
    found = Setup(
        model=text,
        adapter=_of_model(AdapterSetup.of(config.adapter), text),
        gpus=gpus,
        gpus_per_node=min(gpus, gpus_per_node),
        attention=attention or "flash",
        loss=loss or "linear",
        micro_batch=micro_batch,
        length=length,
        supervised=supervised,
        documents=documents,
        accumulation=max(1, round(train.batch_tokens / (gpus * micro_batch * length))),
        checkpointing=checkpointing,
        dtype=dtype,
        device=device,
    )
    if gpus > 1:
        found = _spread(found, config, device_memory, sharding)
    return found if loss is None else _described(found)


def _of_model(adapter: AdapterSetup, text: str) -> AdapterSetup:
    """The same where all layers are named by their numbers. Errors: :class:`ConfigError`."""
    there = range(Setup(model=text).layers)
    missing = [number for number in adapter.layers if number not in there]
    if missing:
        raise ConfigError(
            f"adapter.layers: the model has no layer {missing[0]}",
            hint=f"its layers are 0 to {len(there) - 1}",
        )
    return replace(adapter, layers=()) if len(adapter.layers) == len(there) else adapter


def _described(own: Setup) -> Setup:
    """The same in transformers' Trainer: ``plain`` as it comes, else with kernels like Liger's.

    One GPU trains all weights in the type that they stand in; several have them in fp32 (accelerate does
    that), sharded by FullyShardedDataParallel.
    """
    kernels, alone = own.loss != "plain", own.sharding == "none"
    full = own.adapter.kind == "none"
    return replace(
        own,
        peft=True,
        fused_norms=kernels,
        autocast=kernels,
        optimizer="foreach",
        fsdp1=not alone,
        trained_dtype=own.dtype if full and alone else "float32",
    )


def _spread(found: Setup, config: RunConfig, device_memory: int | None, sharding: Sharding | None) -> Setup:
    """The same on several devices, spread as :mod:`packtrain.model.parallel` does."""
    if sharding is None:
        # What is packed in 4 bits is never sharded.
        whole = config.train.parallel == "data" or found.adapter.kind == "qlora"
        if config.train.parallel == "auto" and not whole:
            from packtrain.plan.memory import standing_bytes

            room = None if device_memory is None else WHOLE_SHARE * device_memory
            whole = found.device == "cpu" or (room is not None and standing_bytes(found) < room)
        sharding = "none" if whole else "hsdp" if found.nodes > 1 and found.gpus_per_node > 1 else "fsdp"
    return replace(found, sharding=sharding)


def _check(**given: tuple[str | None, Any]) -> None:
    for name, (value, allowed) in given.items():
        if value is not None and value not in get_args(allowed):
            raise ConfigError(f"plan.{name}: {value} is none of {', '.join(get_args(allowed))}")


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that describes the language model."""
    for key in ("text_config", "llm_config"):
        if isinstance(config.get(key), dict):
            return config[key]  # type: ignore[no-any-return]
    return config
