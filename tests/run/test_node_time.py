"""From when a pod pays for its node: the kubelet's own traces, and what they cannot say."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from packtrain.config import RunConfig
from packtrain.run.node_time import FRESH, MOST, node_uptime, paid_before
from packtrain.run.pod_watch import _budget
from packtrain.storage import open_storage

NOW = 1_800_000_000.0


def placed(folder: Path, ago: float, now: float = NOW) -> dict[str, str]:
    """A ConfigMap's volume as the kubelet fills it, ``ago`` seconds before ``now``."""
    (folder / "..2026_11_24_15_00_00.123").mkdir()
    (folder / "..data").symlink_to("..2026_11_24_15_00_00.123")
    os.utime(folder / "..data", (now - ago, now - ago), follow_symlinks=False)
    return {"PACKTRAIN_CONFIG": str(folder)}


def before(environment: dict[str, str], up: float | None) -> float:
    return paid_before(environment, now=lambda: NOW, uptime=lambda: up)


def test_the_pull_of_the_image_counts(tmp_path: Path) -> None:
    assert before(placed(tmp_path, 240.0), up=86_400.0) == 240.0


@pytest.mark.parametrize(
    ("up", "wanted"),
    [(300.0, 300.0), (240.0 + FRESH, 240.0 + FRESH), (241.0 + FRESH, 240.0), (100.0, 240.0), (None, 240.0)],
    ids=["made for it", "just fresh", "had other work", "a number of another machine", "not told"],
)
def test_the_boot_counts_of_a_node_that_was_made_for_the_pod(
    tmp_path: Path, up: float | None, wanted: float
) -> None:
    assert before(placed(tmp_path, 240.0), up) == wanted


@pytest.mark.parametrize("ago", [-5.0, MOST + 1], ids=["in the future", "longer than any start"])
def test_a_clock_that_was_set_makes_no_bill(tmp_path: Path, ago: float) -> None:
    assert before(placed(tmp_path, ago), up=300.0) == 0.0


def test_outside_of_a_pod_nothing_is_paid_before(tmp_path: Path) -> None:
    assert paid_before({}) == 0.0
    assert paid_before({"PACKTRAIN_CONFIG": str(tmp_path)}) == 0.0
    assert paid_before({"PACKTRAIN_CONFIG": str(tmp_path / "none")}) == 0.0


def test_a_node_tells_for_how_long_it_is_up() -> None:
    up = node_uptime()
    assert up is not None and up > 0


def test_a_budget_begins_with_it(tmp_path: Path) -> None:
    sections = {
        "name": "a",
        "model": {"source": "m"},
        "data": {"train": "d/d"},
        "cluster": {"machine": "g2-standard-8", "max_cost": "1000 USD", "capacity": "on-demand"},
    }
    (tmp_path / "config").mkdir()
    environment = placed(tmp_path / "config", 3600.0, now=time.time())
    cluster = RunConfig.model_validate(sections).cluster
    ledger = open_storage(tmp_path / "run")
    made = _budget(cluster, ledger, leads=True, say=lambda line: None, environment=environment)
    assert made is not None
    assert made.spent() >= made.rate.usd(3600.0)
    other = _budget(cluster, ledger, leads=False, say=lambda line: None, environment=environment)
    assert other is not None
    assert other.spent() == 0.0, "one node counts for all"
