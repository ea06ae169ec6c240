"""What the traced memory is asked in practice: many GPUs, limits, other models, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plan.models import GEMMA_3_1B, LLAMA_3_8B, LLAMA_3_70B, QWEN3_8B

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.plan import memory
from packtrain.plan.memory import MANY, MOST, StepProfile, largest, profiles, standing_bytes, trace
from packtrain.plan.setup import AdapterSetup, Setup, model_text, setup_of

GIB = 1 << 30
FULL = AdapterSetup(kind="none")
SMALL = LLAMA_3_8B | {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
}


def small(**changes: Any) -> Setup:
    usual: dict[str, Any] = {"length": 256}
    return Setup(model=model_text(SMALL), **(usual | changes))


def moved(profile: StepProfile, kind: str) -> dict[bool, int]:
    return {each.between_nodes: each.size for each in profile.communication if each.kind == kind}


def test_the_kinds_make_up_the_peak() -> None:
    for setup in (small(), small(adapter=FULL), small(gpus=2, sharding="fsdp")):
        profile = trace(setup)
        assert sum(profile.by_kind.values()) == pytest.approx(profile.peak_bytes, rel=0.001)
        assert all(size >= 0 for size in profile.by_kind.values())
        assert profile.resident_bytes < profile.peak_bytes < profile.reserved_bytes
        assert profile.flops > 0


def test_weights_adapter_and_moments_are_what_they_must_be() -> None:
    profile = trace(small())
    hidden, inner, keys = 256, 704, 64
    a_layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner + 2 * hidden
    weights = 2 * (12 * a_layer + 2 * 8192 * hidden + hidden)
    adapter = 4 * 16 * 12 * (2 * 2 * hidden + 2 * (hidden + keys) + 3 * (hidden + inner))
    assert profile.by_kind["weights"] == pytest.approx(weights, rel=0.001)
    assert profile.by_kind["adapter"] == adapter
    assert profile.by_kind["optimizer"] == pytest.approx(2 * adapter, rel=0.02)
    assert profile.communication == ()


def test_fewer_layers_than_are_traced_are_traced_whole() -> None:
    one, two, three, four, five = (trace(small_with(layers)).peak_bytes for layers in (1, 2, 3, 4, 5))
    assert one < two < three < four < five
    assert five - four == pytest.approx(four - three, rel=0.01)


def small_with(layers: int) -> Setup:
    return Setup(model=model_text(SMALL | {"num_hidden_layers": layers}), length=256)


@pytest.mark.parametrize("adapter", [AdapterSetup(), FULL], ids=["lora", "full"])
def test_the_line_through_few_layers_is_the_whole_model(adapter: AdapterSetup) -> None:
    from packtrain.plan.graph import observe

    setup = small(adapter=adapter)
    whole = observe(setup, setup.layers)
    most = max(peak.total for peak in whole.peaks.values())
    workspaces = trace(setup).by_kind["workspaces"]
    assert trace(setup).peak_bytes == pytest.approx(most + workspaces, rel=0.001)
    assert trace(setup).resident_bytes == whole.resident + workspaces
    assert trace(setup).flops == pytest.approx(whole.flops, rel=1e-6)


def test_layers_of_several_types_are_taken_whole_turns_at_a_time() -> None:
    from packtrain.plan.build import layer_turn

    gemma = Setup(model=model_text(GEMMA_3_1B), length=256)
    assert layer_turn(gemma) == 6
    assert trace(gemma).layers_traced == (8, 14)
    assert layer_turn(small()) == 1


@pytest.mark.parametrize("gpus", [2, 8, 64, pytest.param(1024, marks=pytest.mark.slow)])
def test_shards_and_traffic_of_many_gpus(gpus: int) -> None:
    alone, sharded = trace(small(adapter=FULL)), trace(small(adapter=FULL, gpus=gpus, sharding="fsdp"))
    workspaces = alone.by_kind["workspaces"]
    shard = (alone.resident_bytes - workspaces) / gpus
    assert sharded.resident_bytes - workspaces == pytest.approx(shard, rel=0.05, abs=400_000)
    between = gpus > 8
    weights = fp32_bytes_in_rows_for(gpus)
    assert gpus > 64 or weights == pytest.approx(alone.by_kind["weights"], rel=0.02)
    assert moved(sharded, "all_gather")[between] == pytest.approx(weights, rel=0.2), (
        "bf16, forward and backward"
    )
    assert moved(sharded, "reduce_scatter")[between] == pytest.approx(weights, rel=0.05)


def fp32_bytes_in_rows_for(gpus: int) -> int:
    """Of the model's weights, each padded to as many rows as can be shared out evenly, as FSDP2 does."""
    hidden, inner, keys, words = 256, 704, 64, 8192
    layer = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner)]
    shapes = 12 * [*layer, (hidden, 1), (hidden, 1)] + [(words, hidden)] * 2 + [(hidden, 1)]
    return sum(4 * -(-rows // gpus) * gpus * columns for rows, columns in shapes)


def test_within_nodes_and_between_them() -> None:
    profile = trace(small(adapter=FULL, gpus=64, sharding="hsdp"))
    by_kind = {each.kind: each for each in profile.communication}
    assert {kind: (each.ranks, each.between_nodes) for kind, each in by_kind.items()} == {
        "all_gather": (8, False),
        "reduce_scatter": (8, False),
        "all_reduce": (8, True),
    }
    assert by_kind["all_reduce"].size == pytest.approx(by_kind["reduce_scatter"].size / 8, rel=0.01)
    whole = trace(small(gpus=64))
    (traffic,) = whole.communication
    assert (traffic.kind, traffic.ranks, traffic.every) == ("all_reduce", 64, "step")
    assert traffic.size == whole.by_kind["adapter"], "the adapter's gradients, in fp32"


def test_scores_that_are_bent_are_kept_on_a_gpu_too() -> None:
    shape = SMALL | {"model_type": "gemma2", "head_dim": 32, "num_hidden_layers": 2}

    def grows(softcap: float | None) -> float:
        text = model_text(shape | {"attn_logit_softcapping": softcap})
        short, long = (trace(Setup(model=text, length=length)) for length in (1024, 2048))
        return (long.peak_bytes - long.resident_bytes) / (short.peak_bytes - short.resident_bytes)

    assert grows(50.0) > 3.0
    assert grows(None) < 2.1


def test_what_is_kept_and_what_is_computed_again() -> None:
    kept, again = trace(small(checkpointing=False, micro_batch=4)), trace(small(micro_batch=4))
    assert again.by_kind["activations"] < 0.6 * kept.by_kind["activations"]
    assert again.flops > 1.2 * kept.flops


def test_half_of_a_layers_products_and_the_attention_are_kept() -> None:
    usual: dict[str, Any] = {"micro_batch": 4, "length": 512, "adapter": FULL, "trained_dtype": "bfloat16"}
    usual |= {"peft": True, "loss": "plain"}
    kept, half, again = (trace(small(checkpointing=kind, **usual)) for kind in (False, "selective", True))
    assert again.by_kind["activations"] < half.by_kind["activations"] < kept.by_kind["activations"]
    assert kept.flops < half.flops < again.flops
    # The first, third, fifth and seventh of q, k, v, o, gate, up and down; attention's output and logarithms.
    a_layer = 2 * 2048 * (256 + 64 + 704 + 256 + 256) + 4 * 2048 * 8
    added = half.by_kind["activations"] - again.by_kind["activations"]
    assert added == pytest.approx(12 * a_layer, rel=0.01)


def test_selective_checkpointing_is_not_packtrains() -> None:
    with pytest.raises(ConfigError, match="selective is not how packtrain trains"):
        setup_of(run_config(), LLAMA_3_8B, checkpointing="selective")
    theirs = setup_of(run_config(), LLAMA_3_8B, checkpointing="selective", loss="plain")
    assert theirs.checkpointing == "selective"


def test_scores_grow_with_the_square_of_the_length_where_they_are_kept() -> None:
    def comes(attention: str, length: int) -> int:
        profile = trace(replace(small(attention=attention), length=length))
        return profile.peak_bytes - profile.resident_bytes

    assert comes("flash", 2048) / comes("flash", 1024) < 2.1
    assert comes("eager", 2048) / comes("eager", 1024) > 3.0
    assert comes("sdpa", 1024) < 1.2 * comes("flash", 1024)


def test_losses() -> None:
    plain, fused, linear = (trace(small(loss=loss, micro_batch=8)) for loss in ("plain", "fused", "linear"))
    assert linear.peak_bytes < fused.peak_bytes < plain.peak_bytes
    logits = 4 * 8 * 256 * 8192
    assert fused.by_kind["logits_and_loss"] > 1.9 * logits
    assert plain.by_kind["logits_and_loss"] > 2.9 * logits
    fewer = trace(small(micro_batch=8, supervised=0.1, checkpointing=False))
    assert fewer.flops < trace(small(micro_batch=8, checkpointing=False)).flops


@pytest.mark.parametrize("what", ["micro_batch", "length"])
def test_the_largest_that_fits_fits_and_the_next_does_not(what: Any) -> None:
    limit = 2 * GIB
    found = largest(small(), limit, what)
    step = 64 if what == "length" else 1
    assert 0 < found < MOST[what]
    assert trace(small(**{what: found})).reserved_bytes <= limit
    assert trace(small(**{what: found + step})).reserved_bytes > limit
    assert largest(small(), GIB // 2, what) == 0


@pytest.mark.parametrize("what", ["micro_batch", "length"])
def test_no_limit_takes_a_trace_of_many_tokens(what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = trace(small())

    def line(setup: Setup) -> StepProfile:
        assert setup.tokens <= MANY
        return replace(profile, reserved_bytes=GIB + 10_000 * setup.tokens)

    monkeypatch.setattr(memory, "trace", line)
    most = 79 * GIB // 10_000
    assert largest(small(), 80 * GIB, what) == (most // 256 if what == "micro_batch" else MOST["length"])


def test_a_model_that_does_not_fit() -> None:
    setup = Setup(model=model_text(LLAMA_3_70B), length=2048)
    assert trace(setup).peak_bytes > 140e9
    assert largest(setup, 24 * GIB) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "setup"),
    [
        (LLAMA_3_70B, {"gpus": 8, "sharding": "fsdp"}),
        (LLAMA_3_70B, {"gpus": 64, "sharding": "hsdp", "adapter": FULL}),
        (QWEN3_8B, {}),
        (GEMMA_3_1B, {"adapter": FULL}),
    ],
)
def test_large_models_take_seconds_of_one_core(model: dict[str, Any], setup: dict[str, Any]) -> None:
    import time

    before = time.process_time()
    profile = trace(Setup(model=model_text(model), length=2048, micro_batch=2, **setup))
    assert time.process_time() - before < 20
    assert profile.by_kind["weights"] > 0


def test_what_stands_without_sharding() -> None:
    count = 12 * (4 * 256 * 256 - 2 * 256 * 192 + 3 * 256 * 704 + 2 * 256) + 2 * 8192 * 256 + 256
    assert standing_bytes(small()) == 2 * count
    assert standing_bytes(small(adapter=FULL)) == 16 * count


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert-of-mine", "num_hidden_layers": 2}, "bert-of-mine"),
        (SMALL | {"hidden_size": "many"}, "hidden_size"),
        ({"model_type": "t5", "num_hidden_layers": 2}, "T5"),
    ],
)
def test_a_config_that_is_no_causal_language_model(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trace(Setup(model=json.dumps(config)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"gpus": 0}, "gpus is 0"), ({"length": -1}, "length"), ({"supervised": 0.0}, "supervised")],
)
def test_a_setup_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(**changes)


def run_config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "a", "model": {"source": "b"}, "data": {"train": "c.jsonl", "max_length": 1024}} | sections
    )


def test_a_run_file_decides_as_the_run_would() -> None:
    found = setup_of(run_config(), LLAMA_3_8B)
    assert (found.micro_batch, found.length, found.checkpointing) == (16, 1024, True)
    assert (found.loss, found.peft, found.sharding, found.dtype) == ("linear", False, "none", "bfloat16")
    assert found.accumulation == 4
    here = setup_of(run_config(), LLAMA_3_8B, device="cpu")
    assert (here.micro_batch, here.checkpointing, here.dtype) == (2, False, "float32")
    said = setup_of(run_config(train={"micro_batch": 3}), LLAMA_3_8B, length=512, checkpointing=False)
    assert (said.micro_batch, said.length, said.checkpointing) == (3, 512, False)


@pytest.mark.parametrize(
    ("parallel", "memory", "gpus", "kind", "sharding"),
    [
        ("auto", 80 * GIB, 8, "lora", "none"),
        ("auto", 24 * GIB, 8, "lora", "fsdp"),
        ("auto", 80 * GIB, 8, "none", "fsdp"),
        ("auto", 24 * GIB, 16, "lora", "hsdp"),
        ("data", 24 * GIB, 16, "lora", "none"),
        ("fsdp", 80 * GIB, 8, "lora", "fsdp"),
    ],
)
def test_how_several_gpus_share_a_model(
    parallel: str, memory: int, gpus: int, kind: str, sharding: str
) -> None:
    config = run_config(adapter={"kind": kind}, train={"parallel": parallel})
    assert setup_of(config, LLAMA_3_8B, device_memory=memory, gpus=gpus).sharding == sharding


def test_a_loss_that_is_said_describes_other_peoples_training() -> None:
    theirs = setup_of(run_config(), LLAMA_3_8B, loss="linear")
    assert (theirs.peft, theirs.optimizer, theirs.fused_norms, theirs.autocast) == (
        True,
        "foreach",
        True,
        True,
    )
    assert not setup_of(run_config(), LLAMA_3_8B, loss="plain").fused_norms
    full = run_config(adapter={"kind": "none"})
    assert setup_of(full, LLAMA_3_8B, loss="linear").trained_dtype == "bfloat16"
    assert setup_of(full, LLAMA_3_8B, gpus=2, sharding="fsdp", loss="linear").trained_dtype == "float32"


def test_an_unknown_word_is_refused() -> None:
    wrong: Any = "zero3"
    with pytest.raises(ConfigError, match="none, fsdp, hsdp"):
        setup_of(run_config(), LLAMA_3_8B, gpus=2, sharding=wrong)


def test_a_process_that_trains_with_others_traces_in_one_of_its_own(tmp_path: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        apart = trace(small(gpus=2, sharding="fsdp", micro_batch=5))
        assert dist.get_world_size() == 1
    finally:
        dist.destroy_process_group()
    profiles.clear()
    assert trace(small(gpus=2, sharding="fsdp", micro_batch=5)) == apart


def test_nothing_of_a_trace_stays() -> None:
    from packtrain.plan import described

    resize, threads = torch.UntypedStorage.resize_, torch.get_num_threads()
    trace(small(gpus=2, sharding="fsdp", loss="fused", peft=True, fused_norms=True, micro_batch=3))
    assert torch.UntypedStorage.resize_ is resize
    assert described.on_flops == []
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == threads
    assert torch.zeros(2).sum().item() == 0.0
