"""Each kind of adapter as the planner has it: the real layers traced, and what follows from their shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from packtrain.config import RunConfig
from packtrain.plan.memory import StepProfile, trace
from packtrain.plan.setup import Setup, setup_of

MODEL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
}
OUTS = 4 * (256 + 128 + 128 + 256 + 512 + 512 + 256)


def setup(gpus: int = 1, **adapter: Any) -> Setup:
    config = RunConfig.model_validate(
        {
            "name": "planned",
            "model": {"source": "o/m"},
            "data": {"train": "o/d", "max_length": 128},
            "adapter": {"rank": 4} | adapter,
            "train": {"batch_tokens": 128},
        }
    )
    return setup_of(config, MODEL, gpus=gpus, micro_batch=1)


def planned(**adapter: Any) -> StepProfile:
    return trace(setup(**adapter))


def kinds(memory: StepProfile) -> dict[str, int]:
    return dict(memory.by_kind)


def test_dora_trains_a_number_for_each_output() -> None:
    lora, dora = kinds(planned()), kinds(planned(kind="dora"))
    assert dora["adapter"] - lora["adapter"] == pytest.approx(4 * OUTS, rel=0.05)
    # Besides, the allocator gives each small tensor 512 bytes at least.
    assert 8 * OUTS <= dora["optimizer"] - lora["optimizer"] <= 8 * OUTS + 3 * 512 * 28


def test_whole_modules_are_trained_in_fp32() -> None:
    lora, whole = kinds(planned()), kinds(planned(modules_to_save=["embed_tokens", "lm_head"]))
    assert whole["adapter"] - lora["adapter"] == 2 * 4 * 4096 * 256
    assert whole["optimizer"] - lora["optimizer"] == pytest.approx(2 * 8 * 4096 * 256, rel=1e-3)


def test_a_base_in_4_bits_is_never_sharded() -> None:
    assert setup(gpus=4, kind="qlora").sharding == "none"
    assert setup(gpus=4).sharding == "fsdp"
    assert planned(kind="qlora").peak_bytes < planned().peak_bytes


def test_some_layers_are_planned_as_all_of_them() -> None:
    assert setup(layers=[3], rslora=True, loraplus_lr_ratio=16.0) == setup()
    assert json.loads(replace(setup(), micro_batch=1).model) == MODEL
