"""Each kind of adapter as the planner has it: the real layers traced, and what follows from their shapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.plan.cut import Place, cut
from packtrain.plan.graph import observe
from packtrain.plan.memory import StepProfile, trace
from packtrain.plan.setup import AdapterSetup, Setup, setup_of

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


def test_what_changes_no_shape_is_planned_alike() -> None:
    assert setup(layers=[3, 1, 2, 0], rslora=True, loraplus_lr_ratio=16.0) == setup()
    assert json.loads(replace(setup(), micro_batch=1).model) == MODEL


def test_chosen_layers_have_their_share_of_the_adapter() -> None:
    lora, some = kinds(planned()), kinds(planned(layers=[1, 3]))
    assert some["adapter"] * 2 == lora["adapter"]
    assert some["optimizer"] * 2 == pytest.approx(lora["optimizer"], rel=1e-3)


def test_a_layer_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.layers: the model has no layer 4"):
        setup(layers=[1, 4])


@pytest.mark.parametrize(
    ("shape", "layers", "changes"),
    [
        (MODEL | {"num_hidden_layers": 24}, range(14, 24), {}),
        (MODEL | {"num_hidden_layers": 24}, range(14, 24), {"checkpointing": False}),
        (MODEL | {"num_hidden_layers": 24}, range(8), {"checkpointing": False}),
        (MODEL | {"num_hidden_layers": 32}, range(1, 32, 4), {"checkpointing": False}),
        (MODEL | {"num_hidden_layers": 24}, [0, *range(12, 24)], {"gpus": 2, "sharding": "fsdp"}),
    ],
)
def test_a_few_layers_tell_what_all_take(
    shape: dict[str, Any], layers: Sequence[int], changes: dict[str, Any]
) -> None:
    """Against the trace of every layer."""
    wanted = Setup(
        model=json.dumps(shape),
        length=128,
        adapter=AdapterSetup(rank=4, layers=tuple(layers)),
        **changes,
    )
    told = trace(wanted)
    whole = observe(wanted, wanted.layers)
    assert max(told.layers_traced) < wanted.layers
    workspaces = told.by_kind["workspaces"]
    assert told.peak_bytes - workspaces == max(peak.total for peak in whole.peaks.values())
    assert told.resident_bytes - workspaces == whole.resident
    assert told.flops == pytest.approx(whole.flops)
    assert sum(each.size for each in told.communication) == sum(call.size for call in whole.calls)


def test_rows_of_layers_of_several_types() -> None:
    types = ["full_attention" if number % 2 else "sliding_attention" for number in range(44)]
    shape = {**MODEL, "model_type": "gemma3_text", "num_hidden_layers": 44, "layer_types": types}
    found = cut(Setup(model=json.dumps(shape), adapter=AdapterSetup(layers=tuple(range(20, 44)))))
    assert [layers for _, layers in (found.base, *found.grown)] == [12, 14, 14]
    assert found.times == (7, 9)
    for (setup, layers), learning in zip((found.base, *found.grown), (6, 8, 6), strict=True):
        model = json.loads(setup.model)
        assert (model["num_hidden_layers"], model["layer_types"]) == (layers, types[:layers])
        assert setup.adapter.layers == tuple(range(learning, layers))
    # The first row's second layer but one from its end, and the second's from its begin.
    assert Place(17, 3, (5, 3)) in found.places
    assert Place(22, 8, (10, 8)) in found.places
    assert {place.whole for place in found.places} >= {0, 1, 18, 19, 20, 21, 42, 43}


def test_what_is_no_row_is_traced_whole() -> None:
    wanted = setup(layers=[1, 3])
    assert trace(wanted).layers_traced == (4,)
    assert trace(wanted).peak_bytes < planned().peak_bytes
