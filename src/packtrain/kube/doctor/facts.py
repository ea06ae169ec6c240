"""The facts of ``facts.toml`` and ``pins.toml``, with types, and versions compared as GKE numbers them."""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources
from typing import Any

from packtrain.kube import pins
from packtrain.kube.resources import allocatable_memory
from packtrain.plan.machines import Machine, machines


@functools.cache
def _facts() -> dict[str, Any]:
    text = resources.files("packtrain.kube.doctor").joinpath("facts.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def pairs() -> dict[str, str]:
    """Plugin -> daemon, by plain version."""
    return {plain(plugin): plain(daemon) for plugin, daemon in pins.tcpxo().pairs}


def plain(tag: str) -> str:
    """``v1.0.08-1`` and ``1.0.8_1`` are 1.0.8."""
    tag = tag.removeprefix("v")
    numbers = re.match(r"\d+(?:\.\d+)*", tag)
    return ".".join(str(int(part)) for part in numbers[0].split(".")) if numbers else tag


def minimum(feature: str) -> str:
    """The first GKE version that has a feature: sidecars, flex_start, longer_grace."""
    return str(_facts()["gke"][feature])


def older(version: str, than: str) -> bool:
    """Whether a GKE version (``1.32.2-gke.1652000``) is older; False where it cannot be read."""
    mine, other = _numbers(version), _numbers(than)
    return bool(mine) and mine < other


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:4])


def spot_grace() -> tuple[int, int]:
    """Seconds that a pod has after a Spot notice, and the most that a pool can give."""
    return _facts()["spot"]["grace"], _facts()["spot"]["longest_grace"]


@functools.cache
def accelerators() -> tuple[str, ...]:
    """Every value of the label that is known."""
    return tuple({each.accelerator: None for each in machines().values()}) + tuple(
        _facts()["accelerators"]["others"]
    )


def allocatable(machine: Machine) -> tuple[float, float]:
    """vCPUs and bytes of memory that pods can have on a node, by GKE's own reservation:
    https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes
    """
    cpus = machine.vcpus
    taken = 0.06 * min(cpus, 1) + 0.01 * max(min(cpus, 2) - 1, 0)
    taken += 0.005 * max(min(cpus, 4) - 2, 0) + 0.0025 * max(cpus - 4, 0)
    return cpus - taken, allocatable_memory(machine.memory)
