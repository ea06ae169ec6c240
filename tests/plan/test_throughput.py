"""The roofline against published throughputs, and its parts against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from plan import closed_form
from plan.models import LLAMA_3_8B

from packtrain.plan.interval import Interval
from packtrain.plan.machines import machine
from packtrain.plan.memory import Traffic, trace
from packtrain.plan.setup import AdapterSetup, Setup
from packtrain.plan.throughput import (
    LINK_SHARE,
    Fabric,
    Load,
    exposed,
    load_of,
    step_time,
    traffic_time,
)

ATTENTION_ALONE = AdapterSetup(targets=("q_proj", "k_proj", "v_proj", "o_proj"), dropout=0.1)
LLAMA = Setup(model=json.dumps(LLAMA_3_8B), length=4096, micro_batch=4)
#: As transformers' Trainer with peft has it, with fused kernels.
TRAINER = replace(
    LLAMA, peft=True, autocast=True, fused_norms=True, optimizer="foreach", adapter=ATTENTION_ALONE
)
SHARDED = replace(
    LLAMA, adapter=AdapterSetup(kind="none"), length=8192, micro_batch=2, gpus=8, sharding="fsdp"
)


@pytest.mark.parametrize(
    ("setup", "name", "tokens_per_second"),
    [
        # fms-acceleration a100_80gb_liger.csv, one A100 80GB
        (replace(TRAINER, loss="fused"), "a2-ultragpu-1g", 3829),
        (replace(TRAINER, loss="linear", micro_batch=8), "a2-ultragpu-1g", 3879),
        (replace(TRAINER, adapter=replace(ATTENTION_ALONE, kind="qlora")), "a2-ultragpu-1g", 4009),
        (
            replace(TRAINER, adapter=AdapterSetup(kind="none"), trained_dtype="bfloat16"),
            "a2-ultragpu-1g",
            3288,
        ),
        # NeMo AutoModel docs/performance-summary.mdx, one H100
        (replace(LLAMA, micro_batch=2, checkpointing=False), "a3-highgpu-1g", 12_473),
        # torchtitan llama3_h100_202412: selective checkpointing, so between all and none; each of 8 H100
        (SHARDED, "a3-highgpu-8g", 5762),
    ],
)
def test_a_published_throughput_lies_in_the_interval(setup: Setup, name: str, tokens_per_second: int) -> None:
    time = step_time(setup, trace(setup), machine(name), Load(setup.micro_batch, 1))
    assert setup.tokens / time.seconds.high <= tokens_per_second <= setup.tokens / time.seconds.low
    assert setup.tokens / time.seconds.expected == pytest.approx(tokens_per_second, rel=0.15)


def test_a_ring_moves_all_but_a_part_over_each_link() -> None:
    fabric = Fabric(in_node=100e9, between=50e9)
    setup = replace(LLAMA, gpus=16, gpus_per_node=8)
    gathered = Traffic("all_gather", 8, False, "micro_batch", calls=0, size=8 * 10**9)
    moved = traffic_time([gathered], setup, fabric)
    assert moved.expected == pytest.approx(7e9 / 100e9 / LINK_SHARE.expected)
    summed = replace(gathered, kind="all_reduce")
    assert traffic_time([summed], setup, fabric).expected == pytest.approx(2 * moved.expected)
    # Over all 16: one ring, as fast as the network of a node.
    flat = replace(gathered, ranks=16, between_nodes=True)
    assert traffic_time([flat], setup, fabric).low == pytest.approx(7.5e9 / 50e9 / LINK_SHARE.high, rel=1e-6)
    # A pair for each GPU of a node: eight of them share the network.
    pairs = replace(summed, ranks=2, between_nodes=True)
    assert traffic_time([pairs], setup, fabric).expected == pytest.approx(
        8e9 / (50e9 / 8) / LINK_SHARE.expected
    )
    assert traffic_time([replace(gathered, ranks=1)], setup, fabric) == Interval.exactly(0.0)


def test_tcpxo_is_what_several_nodes_need() -> None:
    mega = machine("a3-megagpu-8g")
    assert (Fabric.of(mega).between, Fabric.of(mega, "tcp").between) == (200e9, 4e9)
    assert Fabric.of(machine("g2-standard-96")).between == 4e9
    assert Fabric.of(machine("g2-standard-4")).between == 10e9 / 8
    assert Fabric.of(machine("g2-standard-96")).in_node == 16e9
    setup = replace(SHARDED, gpus=16)
    profile = closed_form.trace(setup)
    with_it, without = (step_time(setup, profile, mega, Load(2, 1), net) for net in ("auto", "tcp"))
    assert without.waiting.expected > with_it.waiting.expected
    assert without.computing == with_it.computing


def test_traffic_hides_behind_computing_and_no_further() -> None:
    assert exposed(Interval(1, 2, 3), Interval(10, 10, 10)) == Interval(0, 0, 0)
    left = exposed(Interval(20, 20, 20), Interval(10, 10, 10))
    assert (left.low, left.expected, left.high) == (10, 11, 15)


@pytest.mark.parametrize(
    ("gpus", "micro_batch", "bins", "expected"),
    [
        (1, 4, 10.0, Load(10.0, 3, 0.9)),
        (8, 4, 32.0, Load(4.0, 1, 0.9)),
        (8, 4, 33.0, Load(5.0, 2, 0.9)),
        (64, 4, 32.0, Load(1.0, 1, 0.9)),
    ],
)
def test_the_busiest_gpu_decides(gpus: int, micro_batch: int, bins: float, expected: Load) -> None:
    assert load_of(replace(LLAMA, gpus=gpus, micro_batch=micro_batch), bins, 0.9) == expected


def test_small_work_is_bound_by_launching_kernels_and_few_tokens_by_memory() -> None:
    h100 = machine("a3-highgpu-1g")
    tiny = replace(LLAMA, micro_batch=1, length=16)
    time = step_time(tiny, trace(tiny), h100, Load(1, 1))
    assert time.computing.expected >= 32 * 1.5e-3
    assert time.computing.low >= 3 * 16e9 / h100.gpu_bandwidth
