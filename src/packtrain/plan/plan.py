"""The plan of a run: what it needs, how long it takes, what it costs; from the run file, without weights.

``plan_run`` is what the verb, ``submit`` and a run that begins ask. Memory needs the base's config.json
alone; time needs the data and the tokenizer, too, and says so where they cannot be had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from packtrain.config import RunConfig
from packtrain.errors import PacktrainError
from packtrain.model.weights import BaseFiles, checked_config, resolve_base
from packtrain.plan.auto import micro_batch
from packtrain.plan.cost import Cost, cost_of
from packtrain.plan.data import DataStats, statistics
from packtrain.plan.duration import Duration, duration
from packtrain.plan.memory import StepProfile, trace
from packtrain.plan.options import PlanKeys
from packtrain.plan.probe import hindrance, probe
from packtrain.plan.setup import Setup, setup_of
from packtrain.plan.target import Target, target_of
from packtrain.plan.throughput import Load, StepTime, load_of, step_time

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """What is known of the base without its weights."""

    files: BaseFiles
    config: dict[str, Any]
    """The content of config.json."""


@dataclass(frozen=True)
class Planned:
    config: RunConfig
    keys: PlanKeys
    base: Base
    target: Target
    setup: Setup
    profile: StepProfile
    data: DataStats | None
    data_why: str
    """Why the data is not known."""
    step: StepTime | None
    time: Duration | None
    cost: Cost
    peak_flops: float | None = None
    """Of all GPUs together, see :mod:`packtrain.plan.peak`; None where this CPU was not tried."""

    @property
    def fits(self) -> bool:
        return self.profile.reserved_bytes <= self.target.memory

    @property
    def tokens_per_second(self) -> float | None:
        """Of all GPUs together, as expected."""
        if self.step is None:
            return None
        tokens = self.data.tokens_a_step if self.data else self.config.train.batch_tokens
        return tokens / self.step.seconds.expected


def plan_run(config: RunConfig, keys: PlanKeys, say: Say) -> Planned:
    """Errors: :class:`ConfigError`, and what keeps the base's config from being had."""
    target = target_of(config.cluster, keys)
    say(f"getting the configuration of {config.model.source}")
    base = read_base(config, say)
    data, why = read_data(config, base, say)
    say("tracing a training step")
    return planned(config, keys, base, target, data, why, say)


def read_base(config: RunConfig, say: Say) -> Base:
    files = resolve_base(config.model, weights=False, on_progress=say)
    checked_config(files, config.model)
    return Base(files, json.loads((files.folder / "config.json").read_text(encoding="utf-8")))


def read_data(config: RunConfig, base: Base, say: Say) -> tuple[DataStats | None, str]:
    """The data, or why it cannot be had from here: then time and cost stay unknown."""
    from packtrain.data.chat import template_text
    from packtrain.model.weights import load_tokenizer

    say("counting the data")
    try:
        tokenizer = load_tokenizer(base.files, config.model)
        return statistics(config, tokenizer, template_text(config.model.chat_template)), ""
    except PacktrainError as error:
        return None, str(error)


def planned(
    config: RunConfig,
    keys: PlanKeys,
    base: Base,
    target: Target,
    data: DataStats | None,
    why: str = "",
    say: Say = lambda text: None,
    *,
    probing: bool = True,
) -> Planned:
    """The plan for one set-up. On this machine steps are tried, which takes seconds: ``say`` is told."""
    setup = make_setup(config, keys, base, target, data)
    profile = trace(setup)
    step = time = peak = None
    if target.machine is not None:
        peak = target.machine.bf16_flops * setup.gpus
        step = step_time(setup, profile, target.machine, _load(config, setup, data), keys.network)
        if data is not None:
            time = duration(config, setup, profile, target.machine, data, step)
    elif (
        probing and data is not None and profile.reserved_bytes <= target.memory and hindrance(config) is None
    ):
        say("trying some steps on this machine: about 20 seconds")
        step, time = probe(config, base.files, setup, data)
        peak = _cpu_peak(setup)
    cost = cost_of(config, target, time, keys.preemptions)
    return Planned(config, keys, base, target, setup, profile, data, why, step, time, cost, peak)


def _cpu_peak(setup: Setup) -> float | None:
    """By a product of the model's own size; None for a model that does not tell it."""
    from packtrain.plan.peak import matmul_rate

    shape = json.loads(setup.model)
    hidden, inner = shape.get("hidden_size"), shape.get("intermediate_size")
    if not isinstance(hidden, int) or not isinstance(inner, int):
        return None
    return matmul_rate(setup.tokens, hidden, inner, setup.dtype)


def _load(config: RunConfig, setup: Setup, data: DataStats | None) -> Load:
    """Without the data: whole sequences, and a whole batch."""
    if data is None:
        return load_of(setup, max(1.0, config.train.batch_tokens / setup.length), 1.0)
    return load_of(setup, data.bins_a_step, data.packing_efficiency)


def make_setup(
    config: RunConfig, keys: PlanKeys, base: Base, target: Target, data: DataStats | None
) -> Setup:
    """What each GPU does; the micro-batch as large as `auto` makes it."""
    documents = max(1, round(data.documents)) if data is not None else 1
    setup = setup_of(
        config,
        base.config,
        device="cpu" if target.machine is None else "cuda",
        device_memory=target.memory,
        gpus=target.gpus,
        gpus_per_node=target.gpus_per_node,
        sharding=keys.sharding,
        attention=keys.attention,
        loss=keys.loss,
        micro_batch=keys.micro_batch,
        checkpointing=keys.checkpointing,
        documents=documents,
    )
    if keys.micro_batch is None and config.train.micro_batch == "auto":
        batch = micro_batch(setup, config.train.batch_tokens, target.memory)
        setup = replace(setup, micro_batch=batch)
    # What is published of others was measured without accumulation.
    turns = config.train.batch_tokens / (setup.gpus * setup.tokens)
    return replace(setup, accumulation=1 if keys.loss is not None else max(1, math.ceil(turns - 1e-9)))
