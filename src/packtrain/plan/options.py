"""The ``-s plan.…`` keys: what a set-up needs beyond the run file. They are no part of a run's identity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from packtrain.config import Section
from packtrain.errors import ConfigError
from packtrain.runfile.document import Document, did_you_mean, override_key, override_value
from packtrain.runfile.keys import nearest_name
from packtrain.runfile.sentences import sentences

PREFIX = "plan."


class PlanKeys(Section):
    """None: as the run itself would decide it."""

    gpus: int | None = Field(default=None, ge=1, le=65_536)
    """GPUs in all. Default: those of `cluster.machine` times `cluster.nodes`."""
    gpu: str | None = None
    """A machine type or a GPU of `machines.toml`, such as `a3-highgpu-1g` or `l4`; or `cpu`, this
    machine. Default: `cluster.machine`."""
    sharding: Literal["none", "fsdp", "hsdp"] | None = None
    """How the model is spread: not at all, over all GPUs, or over those of each node."""
    attention: Literal["flash", "sdpa", "eager"] | None = None
    """The attention kernel."""
    loss: Literal["plain", "fused", "linear"] | None = None
    """Logits kept in fp32, gradients in their place, or never whole."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Sequences of `data.max_length` in one forward pass of a GPU."""
    checkpointing: bool | Literal["selective"] | None = None
    """Whether activations are computed again in the backward pass; `selective`, with a `plan.loss`: half of
    a layer's products and the attention are kept, as torchtitan does."""
    network: Literal["auto", "tcp"] = "auto"
    """Between nodes: what the machine has (GPUDirect-TCPXO on `a3-megagpu-8g`), or plain TCP."""
    preemptions: float | None = Field(default=None, ge=0.0, le=100.0)
    """Spot: how often a node is expected to be taken away, a day."""


class _Whole(Section):
    plan: PlanKeys


def split(overrides: Sequence[str]) -> tuple[PlanKeys, list[str]]:
    """The plan's own keys of ``-s KEY=VALUE``, and the overrides that are the run file's.

    Errors: :class:`ConfigError` with a sentence for each that is wrong, :class:`UsageError` for what is no
    ``KEY=VALUE``.
    """
    values, told, rest = {}, {}, []
    for override in overrides:
        key = override_key(override)
        if key != "plan" and not key.startswith(PREFIX):
            rest.append(override)
            continue
        name = key.removeprefix(PREFIX)
        if name not in PlanKeys.model_fields:
            near = nearest_name(name, PlanKeys.model_fields) if name != key else None
            raise ConfigError(
                f"-s {override}: {key}: unknown key{did_you_mean(near and PREFIX + near)}",
                hint=f"known are {', '.join(PREFIX + each for each in PlanKeys.model_fields)}",
            )
        values[name], told[key] = override_value(override), override
    document = Document(Path("-s"), "", {"plan": values}, {}, told)
    try:
        return _Whole.model_validate(document.data).plan, rest
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error, document))) from None
