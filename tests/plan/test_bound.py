"""What is known of one number of GPUs bounds what another one needs, and is never above it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plan.test_memory import FULL, small

from packtrain.plan import graph, memory
from packtrain.plan.auto import micro_batch
from packtrain.plan.bound import least_bytes
from packtrain.plan.memory import trace
from packtrain.plan.setup import Sharding


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """GPUs of each step that is traced from now on; nothing is known yet."""
    found: list[int] = []
    observe = graph.observe

    def counted(setup: Any, layers: int) -> Any:
        found.append(setup.gpus)
        return observe(setup, layers)

    monkeypatch.setattr(memory, "profiles", {})
    memory._observed.cache_clear()
    monkeypatch.setattr(graph, "observe", counted)
    return found


@pytest.mark.parametrize("changes", [{}, {"adapter": FULL}], ids=["lora", "full"])
def test_a_bound_is_near_and_never_above(changes: dict[str, Any], traced: list[int]) -> None:
    known = small(gpus=4, sharding="fsdp", accumulation=2, **changes)
    assert least_bytes(known) == 0, "nothing is known yet"
    trace(known)
    others: list[tuple[int, Sharding, int]] = [
        (2, "fsdp", 1),
        (8, "fsdp", 1),
        (16, "hsdp", 1),
        (8, "fsdp", 4),
    ]
    for gpus, sharding, batch in others:
        other = replace(known, gpus=gpus, sharding=sharding, micro_batch=batch)
        bound = least_bytes(other)
        assert 0 < bound <= trace(other).reserved_bytes
        assert batch > 1 or bound > 0.9 * trace(other).reserved_bytes


def test_other_setups_tell_nothing(traced: list[int]) -> None:
    trace(small(gpus=4, sharding="fsdp", micro_batch=2, accumulation=2))
    for other in (
        small(gpus=4, sharding="none", micro_batch=2, accumulation=2),
        small(gpus=4, sharding="fsdp", micro_batch=1, accumulation=2),
        small(gpus=4, sharding="fsdp", micro_batch=2, accumulation=1),
        small(gpus=4, sharding="fsdp", micro_batch=2, accumulation=2, length=512),
        small(gpus=4, sharding="fsdp", micro_batch=2, accumulation=2, adapter=FULL),
    ):
        assert least_bytes(other) == 0


def test_what_is_the_same_on_more_gpus_is_not_traced_again(traced: list[int]) -> None:
    profiles = [trace(small(gpus=gpus, sharding="hsdp", adapter=FULL)) for gpus in (16, 32, 1024)]
    assert traced == [16, 16], "twice, with two numbers of layers"
    assert len({profile.peak_bytes for profile in profiles}) == 1
    ranks = [{each.kind: each.ranks for each in profile.communication} for profile in profiles]
    assert [each["all_reduce"] for each in ranks] == [2, 4, 128]
    assert {each["all_gather"] for each in ranks} == {8}
    assert [trace(small(gpus=gpus)).communication[0].ranks for gpus in (2, 64)] == [2, 64]
    assert len(traced) == 4


def test_what_cannot_fit_is_not_traced(traced: list[int]) -> None:
    shared = small(gpus=4, sharding="fsdp", accumulation=2)
    limit = trace(shared).reserved_bytes - (1 << 20)
    before = len(traced)
    fewer = replace(shared, gpus=2, micro_batch=8, accumulation=1)
    assert micro_batch(fewer, 1 << 16, round(0.9 * limit)) == 1
    assert len(traced) == before
