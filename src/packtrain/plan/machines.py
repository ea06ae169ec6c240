"""The machines of Google Cloud that runs are planned for: what they have, and what an hour costs.

The facts are in ``machines.toml``, with their sources; this file gives them types and units.
"""

from __future__ import annotations

import difflib
import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from packtrain.errors import ConfigError

Capacity = Literal["on-demand", "spot", "flex-start", "queued", "reservation"]
#: What carries the GPUs' traffic between nodes: GPUDirect-TCPXO, GPUDirect-TCPX, RDMA over Converged
#: Ethernet, or the node's one network card.
Fabric = Literal["tcpxo", "tcpx", "rdma", "tcp"]

GIB = 1 << 30
MIB = 1 << 20
SSD_BYTES = 375 * 10**9


@dataclass(frozen=True)
class Machine:
    name: str
    accelerator: str
    """Value of the node label ``cloud.google.com/gke-accelerator``, and gcloud's accelerator type."""
    gpus: int
    gpu_name: str
    gpu_memory: int
    """Bytes of each GPU, as nvidia-smi shows them."""
    bf16_flops: float
    """Peak of a GPU, dense, in operations a second."""
    gpu_bandwidth: float
    """Bytes a second of a GPU's own memory."""
    nvlink_bandwidth: float
    """Bytes a second between a GPU and the others of its node, both ways together; 0 without NVLink."""
    vcpus: int
    memory: int
    """Bytes."""
    local_ssds: int
    """Of 375 GB each. Where they are not bundled, what a node pool for this machine should have."""
    bundled_ssds: bool
    network_bandwidth: float
    """Bytes a second of the node, each way, all network cards together."""
    gpu_nics: int
    """Network cards that are the GPUs' own, besides eth0."""
    fabric: Fabric
    quota: str
    """Quota metric of a region for standard capacity; see :func:`quota_metric`."""

    @property
    def tcpxo(self) -> bool:
        return self.fabric == "tcpxo"

    @property
    def local_ssd_bytes(self) -> int:
        return self.local_ssds * SSD_BYTES


@dataclass(frozen=True)
class Price:
    """What a machine costs in an hour, as a list says it: a contract, a region or a day may differ."""

    machine: str
    capacity: Capacity
    usd: float | None
    """USD an hour; None where no source has it."""
    upper_bound: bool
    """True where only a price that is at least as high is known: on-demand's for flex-start."""
    region: str
    date: str
    source: str


def machine(name: str, key: str = "cluster.machine") -> Machine:
    """The machine type ``name``, which ``key`` asks for.

    Raises :class:`~packtrain.errors.ConfigError` with the nearest name.
    """
    found = machines().get(name)
    if found is None:
        near = difflib.get_close_matches(name, machines(), n=1, cutoff=0.6)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"{key}: {name} is not a machine type that packtrain knows{suggestion}",
            hint=f"known are {', '.join(machines())}",
        )
    return found


@functools.cache
def machines() -> dict[str, Machine]:
    """All machine types by name, the smallest first."""
    gpus = _table()["gpus"]
    return {name: _machine(name, facts, gpus[facts["gpu"]]) for name, facts in _table()["machines"].items()}


def quota_metric(machine: Machine, capacity: Capacity) -> str:
    """The regional quota that ``machine.gpus`` of each node count against.

    Spot, and the flexible start through Dynamic Workload Scheduler, draw on preemptible quota.
    """
    preemptible = capacity in ("spot", "flex-start", "queued")
    return f"PREEMPTIBLE_{machine.quota}" if preemptible else machine.quota


def price_per_hour(machine: Machine, capacity: Capacity) -> Price:
    """The list price of one machine. A reservation is paid as on-demand, whether it is used or not."""
    listed = _table()["prices"]
    own: dict[str, Any] = listed["machines"].get(machine.name, {})
    usd = own.get("spot" if capacity == "spot" else "on-demand")
    return Price(
        machine=machine.name,
        capacity=capacity,
        usd=usd,
        upper_bound=usd is not None and capacity in ("flex-start", "queued"),
        region=listed["region"],
        date=own.get("date", listed["date"]),
        source=own.get("source", listed["source"]),
    )


def _machine(name: str, facts: dict[str, Any], gpu: dict[str, Any]) -> Machine:
    return Machine(
        name=name,
        accelerator=gpu["label"],
        gpus=facts["gpus"],
        gpu_name=gpu["name"],
        gpu_memory=gpu["memory_mib"] * MIB,
        bf16_flops=gpu["bf16_tflops"] * 1e12,
        gpu_bandwidth=gpu["bandwidth_gbytes"] * 1e9,
        nvlink_bandwidth=gpu["nvlink_gbytes"] * 1e9,
        vcpus=facts["vcpus"],
        memory=facts["memory_gib"] * GIB,
        local_ssds=facts["local_ssds"],
        bundled_ssds=facts["bundled_ssds"],
        network_bandwidth=facts["network_gbits"] * 1e9 / 8,
        gpu_nics=facts["nics"],
        fabric=facts["fabric"],
        quota=gpu["quota"],
    )


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files("packtrain.plan").joinpath("machines.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
