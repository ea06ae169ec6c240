"""A tracer in a few lines of arithmetic: tests of what is built on the tracer need no graph."""

from __future__ import annotations

import json
from typing import Any

import pytest

from packtrain.plan.memory import StepProfile, Traffic
from packtrain.plan.setup import Setup

#: Bytes that are not PyTorch's.
CONTEXT = 1 << 30


def shape(setup: Setup) -> tuple[int, int, int]:
    """Parameters of a layer, of embedding and head, and the hidden size."""
    config = json.loads(setup.model)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    return 2 * hidden * (hidden + kv) + 3 * hidden * inner, config["vocab_size"] * hidden, hidden


def weights(setup: Setup) -> int:
    layer, vocabulary, _ = shape(setup)
    count = setup.layers * layer + 2 * vocabulary
    return (
        {"none": 16, "lora": 2, "qlora": 1}[setup.adapter.kind]
        * count
        // (2 if setup.adapter.kind == "qlora" else 1)
    )


def trace(setup: Setup) -> StepProfile:
    layer, vocabulary, hidden = shape(setup)
    shards = {"none": 1, "fsdp": setup.gpus, "hsdp": setup.gpus_per_node}[setup.sharding]
    standing = weights(setup) // shards
    kept = setup.tokens * hidden * setup.layers * (2 if setup.checkpointing else 40)
    logits = 0 if setup.loss == "linear" else setup.tokens * vocabulary // hidden * 8
    moments = setup.layers * layer * 8 // shards if setup.adapter.kind == "none" else setup.layers * 10**6
    gathered = 2 * 2 * layer if shards > 1 else 0
    flops = (2 + 2 + 2 * bool(setup.checkpointing)) * (setup.layers * layer + vocabulary) * setup.tokens
    traffic: tuple[Traffic, ...] = ()
    if setup.gpus > 1:
        base = 2 * setup.layers * layer
        if shards > 1:
            across = setup.sharding == "fsdp" and setup.nodes > 1
            traffic += (Traffic("all_gather", shards, across, "micro_batch", 2 * setup.layers, 2 * base),)
        if shards < setup.gpus:
            ranks = setup.gpus // shards
            traffic += (Traffic("all_reduce", ranks, setup.nodes > 1, "step", 1, moments // 2),)
    by_kind = {
        "weights": standing,
        "activations": kept,
        "logits_and_loss": logits,
        "optimizer": moments,
        "all_gather": gathered,
    }
    peak = sum(by_kind.values())
    resident = standing + moments
    return StepProfile(peak, peak + CONTEXT, resident, by_kind, "backward of layer 1", flops, traffic, (2, 4))


def largest(setup: Setup, limit_bytes: int, what: Any = "micro_batch", below: int | None = None) -> int:
    from dataclasses import replace

    low, high = 0, 1 << 22
    if below is not None:
        high = below - 1
    while low < high:
        middle = (low + high + 1) // 2
        changed: dict[str, Any] = {what: middle}
        fits = trace(replace(setup, **changed)).reserved_bytes <= limit_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that asks the tracer asks this one."""
    from packtrain.plan import ask, auto, memory, plan, suggest, throughput

    monkeypatch.setattr(memory, "profiles", {})  # of the real one
    for module in (ask, auto, memory, suggest):
        monkeypatch.setattr(module, "largest", largest)
    for module in (auto, memory, plan):
        monkeypatch.setattr(module, "trace", trace)
    for module in (auto, memory, suggest, throughput):
        monkeypatch.setattr(module, "standing_bytes", weights)
