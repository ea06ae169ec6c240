"""A user's own machines and prices lie over the package's, and say where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from packtrain.errors import ConfigError
from packtrain.plan.machines import machine, machines, price_per_hour

OWN = """
[prices]
date = "2026-11-01"
source = "our contract"

[prices.machines.a4-highgpu-8g]
spot = 61.5
flex-start = 70.0

[prices.machines.a3-megagpu-8g]
spot = 25.0

[prices.regions.europe-west4.machines.a3-megagpu-8g]
spot = 33.0

[gpus.h100-mega]
bf16_tflops = 900.0

[machines.a3-lab-2g]
gpu = "h100"
gpus = 2
vcpus = 52
memory_gib = 468
local_ssds = 4
bundled_ssds = true
network_gbits = 50
nics = 0
fabric = "tcp"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "machines.toml"
    monkeypatch.setenv("PACKTRAIN_MACHINES", str(path))
    return path


def test_own_prices_count_and_say_where_they_come_from(own: Path) -> None:
    own.write_text(OWN)
    price = price_per_hour(machine("a4-highgpu-8g"), "flex-start")
    assert (price.usd, price.upper_bound, price.own) == (70.0, False, True)
    assert (price.date, price.source) == ("2026-11-01", "our contract")
    mega = machine("a3-megagpu-8g")
    assert price_per_hour(mega, "spot").usd == 25.0
    listed = price_per_hour(mega, "on-demand")
    assert (listed.usd, listed.own) == (92.2143, False)
    assert listed.source.startswith("https://")


def test_a_region_has_its_own_price_and_a_zone_counts_as_its_region(own: Path) -> None:
    own.write_text(OWN)
    for place in ("europe-west4", "europe-west4-b"):
        price = price_per_hour(machine("a3-megagpu-8g"), "spot", place)
        assert (price.usd, price.region) == (33.0, "europe-west4")
    other = price_per_hour(machine("a3-megagpu-8g"), "spot", "us-east4")
    assert (other.usd, other.region) == (25.0, "us-central1")


def test_own_machines_and_facts_lie_over_the_others(own: Path) -> None:
    own.write_text(OWN)
    assert machine("a3-lab-2g").gpus == 2
    assert machine("a3-megagpu-8g").bf16_flops == 900e12
    assert machine("a3-megagpu-8g").gpu_bandwidth == 3350e9
    own.write_text("")
    assert "a3-lab-2g" not in machines()


def test_the_file_in_the_home_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACKTRAIN_MACHINES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert price_per_hour(machine("a4-highgpu-8g"), "spot").usd is None
    (tmp_path / "packtrain").mkdir()
    (tmp_path / "packtrain/machines.toml").write_text("[prices.machines.a4-highgpu-8g]\nspot = 50\n")
    price = price_per_hour(machine("a4-highgpu-8g"), "spot")
    assert (price.usd, price.source) == (50, str(tmp_path / "packtrain/machines.toml"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[prices", "cannot be read as TOML"),
        ("[price]\nx = 1", r"\[price\] is none of gpus, machines, prices"),
        ("[prices.machines.l4]\nspot = 'cheap'", "spot is 'cheap'; it is USD an hour"),
        ("[prices.machines.l4]\nspot = -1", "spot is -1; it is USD an hour"),
        ("[prices.machines]\nl4 = 3", "l4 is a table"),
        ("[machines.mine]\ngpu = 'h100'\ngpus = 1", "the machine mine lacks 'vcpus'"),
        ("[machines.mine]\ngpu = 'none-such'", "the machine mine lacks 'none-such'"),
        ("[machines.mine]\ngpus = 'many'\ngpu = 'l4'", "the machine mine lacks"),
    ],
)
def test_a_file_that_is_wrong_is_named(own: Path, text: str, sentence: str) -> None:
    own.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        price_per_hour(machine("g2-standard-4"), "spot")
    assert str(own) in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_only_where_it_was_named(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="PACKTRAIN_MACHINES"):
        machines()
    monkeypatch.delenv("PACKTRAIN_MACHINES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own.parent / "empty"))
    assert machines()
