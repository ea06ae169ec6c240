"""Which machine serves a base: held against figures that were worked out by hand and vLLM's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from launches import config_of
from plan.models import LLAMA_3_8B

from packtrain.artifacts.vllm_ranks import RANKS
from packtrain.errors import GateError
from packtrain.kube import serve_room
from packtrain.kube.serve_room import (
    Served,
    check,
    choose,
    divides,
    lora_rank,
    room,
    sentence,
    served_of,
)
from packtrain.plan.machines import GIB, machine, machines, price_per_hour

#: Of Llama 3 8B and 70B, and of SmolLM2-135M.
EIGHT = Served(8_030_261_248, 16_060_522_496, 2_621_440, 32, 32, 8, 128, 8192)
SEVENTY = Served(70_553_706_496, 141_107_412_992, 12_943_360, 80, 64, 8, 128, 8192)
SMOL = Served(134_515_008, 538_060_032, 305_280, 30, 9, 3, 64, 8192)


def test_a_base_is_described_from_its_config_alone() -> None:
    assert served_of(config_of(), LLAMA_3_8B) == EIGHT
    # One layer: q and o 4096+4096, k and v 4096+1024, gate, up and down 4096+14336.
    assert EIGHT.linear_width == 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)


def test_a_base_that_is_stored_in_fp32_is_served_in_two_bytes() -> None:
    wide = served_of(config_of(), LLAMA_3_8B | {"torch_dtype": "float32"})
    assert wide == replace(EIGHT, file_bytes=2 * EIGHT.file_bytes)
    needs = room(config_of(), wide, machine("g2-standard-12"))
    assert needs.weights == EIGHT.parameters * 2


def test_what_an_l4_needs_by_hand() -> None:
    needs = room(config_of(), EIGHT, machine("g2-standard-12"))
    assert needs.weights == 16_060_522_496
    assert needs.adapter == 2_621_440 * 16 * 2
    # Keys and values of 32 layers, 8 heads of 128 in two bytes: 128 KiB for each of 2,048 tokens.
    assert needs.conversation == 2048 * 128 * 1024
    assert needs.usable == int(23034 * 2**20 * 0.9)
    assert needs.conversations == 8


@pytest.mark.parametrize(("gpus", "kv_gib"), [(1, 53.29), (2, 58.97)])
def test_the_cache_is_what_vllm_said_itself(gpus: int, kv_gib: float) -> None:
    """Meta-Llama-3-8B on H100s of 79.22 GiB: vllm-project/vllm pull request 10511."""
    known = replace(machine(f"a3-highgpu-{gpus}g"), gpu_memory=int(79.22 * GIB))
    needs = room(config_of(adapter={"kind": "none"}), EIGHT, known)
    assert needs.adapter == 0
    left = (needs.usable - needs.weights - needs.overhead) / GIB
    assert left == pytest.approx(kv_gib, abs=0.1)


@pytest.mark.parametrize(
    ("served", "length", "capacity", "chosen"),
    [
        (SMOL, 2048, "on-demand", "g2-standard-4"),
        (EIGHT, 2048, "on-demand", "g2-standard-8"),
        (EIGHT, 2048, "spot", "g2-standard-8"),
        (EIGHT, 8192, "on-demand", "g2-standard-24"),
        (SEVENTY, 2048, "on-demand", "a2-ultragpu-4g"),
    ],
)
def test_the_cheapest_that_holds_it_is_chosen(
    served: Served, length: int, capacity: Any, chosen: str
) -> None:
    config = config_of(data={"max_length": length})
    found = choose(config, served, capacity)
    assert found.name == chosen
    paid = price_per_hour(found, capacity).usd
    assert paid is not None
    for other in machines().values():
        usd = price_per_hour(other, capacity).usd
        if usd is not None and usd < paid:
            assert serve_room._refusal(config, served, other, serve_room.CONVERSATIONS) is not None


def test_a_base_whose_files_a_boot_disk_does_not_hold_gets_bundled_ssds() -> None:
    config = config_of()
    thick = replace(EIGHT, file_bytes=60 * 10**9)
    assert choose(config, thick, "on-demand").bundled_ssds
    check(config, thick, machine("g2-standard-12"))  # named: the user's pool may have a larger disk


def test_none_holds_what_is_too_large() -> None:
    huge = replace(SEVENTY, parameters=2 * 10**12)
    with pytest.raises(GateError, match=r"no machine that packtrain knows holds .* \(4000\.0 GB\)"):
        choose(config_of(), huge, "on-demand")


@pytest.mark.parametrize(
    ("served", "name", "pattern"),
    [
        (SEVENTY, "g2-standard-96", r"each NVIDIA L4 needs 23\.3 GB for 1 conversation of 2,048 tokens"),
        (SMOL, "g2-standard-24", r"9 attention heads \(3 of keys\) cannot be spread evenly over its 2 GPUs"),
        (EIGHT, "g2-standard-4", r"loading needs 20\.4 GB of the machine's own memory"),
    ],
)
def test_a_named_machine_on_which_vllm_would_not_start_is_refused(
    served: Served, name: str, pattern: str
) -> None:
    with pytest.raises(GateError, match=pattern) as caught:
        check(config_of(), served, machine(name))
    assert str(caught.value).startswith(f"--machine {name}: ")


def test_a_named_machine_may_hold_fewer_conversations() -> None:
    config = config_of(data={"max_length": 8192})
    check(config, EIGHT, machine("g2-standard-12"))
    assert "(2 conversations of 8,192 tokens)" in sentence(config, EIGHT, machine("g2-standard-12"))


def test_why_is_one_sentence_with_every_part() -> None:
    assert sentence(config_of(), EIGHT, machine("g2-standard-8")) == (
        "8.0B parameters in bfloat16: weights 16.1 GB + adapter 0.1 GB + KV cache 2.1 GB (8 conversations of "
        "2,048 tokens) + vLLM itself 3.3 GB: g2-standard-8's NVIDIA L4 of 24.2 GB, 90% of it used, holds it."
    )
    told = sentence(config_of(), SEVENTY, machine("a2-ultragpu-4g"))
    assert "on each of 4 GPUs" in told
    assert told.endswith("and about 217 at once.")


def test_a_conversation_is_no_longer_than_the_base_knows() -> None:
    config = config_of(data={"max_length": 16384})
    assert serve_room.served_length(config, EIGHT) == 8192
    assert serve_room.served_length(config, None) == 16384


def test_fewer_key_heads_than_gpus_are_repeated() -> None:
    assert divides(replace(EIGHT, kv_heads=4), 8)
    needs = room(config_of(), replace(EIGHT, kv_heads=4), machine("a3-highgpu-8g"))
    assert needs.conversation == 2 * 32 * 1 * 128 * 2 * 2048
    assert not divides(replace(EIGHT, kv_heads=6), 8)


@pytest.mark.parametrize(("rank", "told"), [(1, 8), (8, 8), (9, 16), (16, 16), (300, 320), (512, 512)])
def test_a_rank_is_rounded_up_to_one_that_vllm_takes(rank: int, told: int) -> None:
    assert lora_rank(rank) == told
    assert told in RANKS
