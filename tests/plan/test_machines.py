from __future__ import annotations

import re

import pytest

from packtrain.errors import ConfigError
from packtrain.plan.machines import GIB, machine, machines, price_per_hour, quota_metric

GPU_MACHINES = (
    *("a3-megagpu-8g", "a3-highgpu-1g", "a3-highgpu-2g", "a3-highgpu-4g", "a3-highgpu-8g"),
    *("a3-ultragpu-8g", "a4-highgpu-8g"),
    *("a2-highgpu-1g", "a2-highgpu-2g", "a2-highgpu-4g", "a2-highgpu-8g"),
    *("a2-ultragpu-1g", "a2-ultragpu-2g", "a2-ultragpu-4g", "a2-ultragpu-8g"),
    *(
        "g2-standard-4",
        "g2-standard-8",
        "g2-standard-12",
        "g2-standard-24",
        "g2-standard-48",
        "g2-standard-96",
    ),
)


def test_the_machines_of_the_guide_are_there() -> None:
    assert set(GPU_MACHINES) <= set(machines())


def test_the_reference_machine_is_as_google_says() -> None:
    mega = machine("a3-megagpu-8g")
    assert (mega.vcpus, mega.memory, mega.gpus, mega.local_ssds, mega.gpu_nics) == (208, 1872 * GIB, 8, 16, 8)
    assert mega.accelerator == "nvidia-h100-mega-80gb"
    assert mega.network_bandwidth == 225e9  # 1.8 Tbit/s
    assert mega.tcpxo


def test_only_the_reference_machine_has_tcpxo() -> None:
    assert [each.name for each in machines().values() if each.tcpxo] == ["a3-megagpu-8g"]


@pytest.mark.parametrize("name", machines())
def test_a_machine_is_what_its_name_says(name: str) -> None:
    found = machine(name)
    counted = re.search(r"-(\d+)g$", name)
    if counted:
        assert found.gpus == int(counted[1])
    else:
        assert found.vcpus == int(name.rpartition("-")[2])
    assert 20e9 < found.gpu_memory < 200e9
    assert 1e14 < found.bf16_flops < 3e15
    assert found.memory >= 2 * GIB * found.vcpus
    assert (found.gpu_nics > 0) == (found.fabric != "tcp")
    assert re.fullmatch(r"nvidia-[a-z0-9-]+", found.accelerator)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("a2-highgpu", (1, 2, 4, 8)), ("a2-ultragpu", (1, 2, 4, 8)), ("a3-highgpu", (1, 2, 4, 8))],
)
def test_a_family_grows_and_costs_in_proportion(family: str, sizes: tuple[int, ...]) -> None:
    one = machine(f"{family}-1g")
    price = price_per_hour(one, "spot").usd
    assert price is not None
    for size in sizes:
        each = machine(f"{family}-{size}g")
        assert (each.vcpus, each.memory) == (size * one.vcpus, size * one.memory)
        assert price_per_hour(each, "spot").usd == pytest.approx(size * price, rel=1e-3)


@pytest.mark.parametrize("name", machines())
def test_a_price_has_its_date_and_its_source(name: str) -> None:
    demand, spot = (price_per_hour(machine(name), capacity) for capacity in ("on-demand", "spot"))
    assert demand.source.startswith("https://")
    assert demand.region == "us-central1"
    assert re.match(r"20\d\d", demand.date)
    if demand.usd is None:
        assert spot.usd is None
    else:
        assert spot.usd is not None
        assert 0 < spot.usd < demand.usd
        assert not demand.upper_bound
        assert not spot.upper_bound


def test_a_flexible_start_is_known_to_cost_at_most_what_on_demand_does() -> None:
    mega = machine("a3-megagpu-8g")
    for capacity in ("flex-start", "queued"):
        price = price_per_hour(mega, capacity)
        assert price.upper_bound
        assert price.usd == price_per_hour(mega, "on-demand").usd
    assert not price_per_hour(mega, "reservation").upper_bound


def test_no_price_is_invented() -> None:
    price = price_per_hour(machine("a4-highgpu-8g"), "flex-start")
    assert (price.usd, price.upper_bound) == (None, False)


def test_a_machine_that_is_unknown_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"a3-megagpu-8 is not .* did you mean a3-megagpu-8g\?") as caught:
        machine("a3-megagpu-8")
    assert "g2-standard-4" in (caught.value.hint or "")
    with pytest.raises(ConfigError) as caught:
        machine("zz")
    assert "did you mean" not in str(caught.value)


def test_quota_is_asked_by_the_metric_of_machine_and_capacity() -> None:
    mega = machine("a3-megagpu-8g")
    assert quota_metric(mega, "on-demand") == "NVIDIA_H100_MEGA_GPUS"
    assert quota_metric(mega, "reservation") == "NVIDIA_H100_MEGA_GPUS"
    assert quota_metric(mega, "spot") == "PREEMPTIBLE_NVIDIA_H100_MEGA_GPUS"
    assert quota_metric(machine("a3-highgpu-8g"), "spot") == "PREEMPTIBLE_NVIDIA_H100_GPUS"
    assert quota_metric(machine("g2-standard-8"), "queued") == "PREEMPTIBLE_NVIDIA_L4_GPUS"
