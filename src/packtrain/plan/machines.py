"""The machines of Google Cloud that runs are planned for: what they have, and what an hour costs.

The facts are in ``machines.toml``, with their sources; a file of the user's own lies over them. This
file gives them types and units.
"""

from __future__ import annotations

import difflib
import functools
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from packtrain.errors import ConfigError
from packtrain.plan.interval import Interval

Capacity = Literal["on-demand", "spot", "flex-start", "queued", "reservation"]
#: What carries the GPUs' traffic between nodes: GPUDirect-TCPXO, GPUDirect-TCPX, RDMA over Converged
#: Ethernet, or the node's one network card.
Fabric = Literal["tcpxo", "tcpx", "rdma", "tcp"]

GIB = 1 << 30
MIB = 1 << 20
SSD_BYTES = 375 * 10**9
#: Of a GPU that a user's file adds and says no more of.
UNKNOWN_EFFICIENCY = (0.25, 0.4, 0.6)
#: Names a file with machines and prices of one's own.
OWN_FILE = "PACKTRAIN_MACHINES"
#: In a pod, which does not see that file: the price of a machine in it, in USD an hour.
OWN_PRICE = "PACKTRAIN_USD"


@dataclass(frozen=True)
class Machine:
    name: str
    gpu: str
    """Name of the GPU in ``machines.toml``."""
    accelerator: str
    """Value of the node label ``cloud.google.com/gke-accelerator``, and gcloud's accelerator type."""
    gpus: int
    gpu_name: str
    gpu_memory: int
    """Bytes of each GPU, as nvidia-smi shows them."""
    bf16_flops: float
    """Peak of a GPU, dense, in operations a second."""
    efficiency: Interval
    """The share of that peak which training steps reach."""
    calibrated: str
    """Where that is known from."""
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
    own: bool = False
    """Of the user's own file."""


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


def machines() -> dict[str, Machine]:
    """All machine types by name, the smallest first. Errors: :class:`ConfigError` for one's own file."""
    return _machines(_own_file())


def quota_metric(machine: Machine, capacity: Capacity) -> str:
    """The regional quota that ``machine.gpus`` of each node count against.

    Spot, and the flexible start through Dynamic Workload Scheduler, draw on preemptible quota.
    """
    preemptible = capacity in ("spot", "flex-start", "queued")
    return f"PREEMPTIBLE_{machine.quota}" if preemptible else machine.quota


def price_per_hour(machine: Machine, capacity: Capacity, location: str | None = None) -> Price:
    """The list price of one machine in ``location`` (a region or zone) where that is listed.

    Else in the table's own region. A reservation is paid as on-demand, whether it is used or not.
    """
    listed = _table(_own_file())["prices"]
    region = "-".join((location or "").split("-")[:2])
    regional = listed.get("regions", {}).get(region, {}).get("machines", {}).get(machine.name)
    facts: dict[str, Any] = listed["machines"].get(machine.name, {})
    if regional and (capacity in regional or capacity not in facts):
        facts = regional
    kind = capacity if capacity in facts else "spot" if capacity == "spot" else "on-demand"
    usd, own = facts.get(kind), facts.get("own", {})
    told = own if kind in own.get("kinds", ()) else facts
    return Price(
        machine=machine.name,
        capacity=capacity,
        usd=usd,
        upper_bound=usd is not None and kind != capacity and capacity in ("flex-start", "queued"),
        region=told.get("region", listed["region"]),
        date=told.get("date", listed["date"]),
        source=told.get("source", listed["source"]),
        own=told is own,
    )


@functools.cache
def _machines(own: tuple[Path, int] | None) -> dict[str, Machine]:
    table, found = _table(own), {}
    for name, facts in table["machines"].items():
        try:
            found[name] = _machine(name, facts, table["gpus"][facts["gpu"]])
        except (KeyError, TypeError) as error:  # the package's own file is whole: tests see to that
            assert own is not None
            missing = f"lacks {error}" if isinstance(error, KeyError) else f"has a wrong value ({error})"
            raise ConfigError(
                f"{own[0]}: the machine {name} {missing}", hint="docs/plan.md shows what a machine needs"
            ) from None
    return found


def _machine(name: str, facts: dict[str, Any], gpu: dict[str, Any]) -> Machine:
    return Machine(
        name=name,
        gpu=facts["gpu"],
        accelerator=gpu["label"],
        gpus=facts["gpus"],
        gpu_name=gpu["name"],
        gpu_memory=gpu["memory_mib"] * MIB,
        bf16_flops=gpu["bf16_tflops"] * 1e12,
        efficiency=Interval(*gpu.get("efficiency", UNKNOWN_EFFICIENCY)),
        calibrated=gpu.get("calibrated", "nothing: an assumption, wide"),
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


def _own_file(environment: Mapping[str, str] = os.environ) -> tuple[Path, int] | None:
    """The user's file and when it was changed; None where there is none."""
    named = environment.get(OWN_FILE)
    home = environment.get("XDG_CONFIG_HOME") or "~/.config"
    path = Path(named or f"{home}/packtrain/machines.toml")
    try:
        path = path.expanduser()
        return path, path.stat().st_mtime_ns
    except (OSError, RuntimeError) as error:
        if named is None:
            return None
        raise ConfigError(f"{OWN_FILE}: {named} cannot be read: {error}") from None


@functools.cache
def _table(own: tuple[Path, int] | None) -> dict[str, Any]:
    text = resources.files("packtrain.plan").joinpath("machines.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return table if own is None else _merged(table, _read(own[0]))


def _read(path: Path) -> dict[str, Any]:
    """The user's own file, its prices with their source. Errors: :class:`ConfigError`."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    unknown = sorted(table.keys() - {"gpus", "machines", "prices"})
    prices = table.get("prices", {})
    if unknown or not isinstance(prices, dict):
        raise ConfigError(f"{path}: [{(unknown or ['prices'])[0]}] is none of gpus, machines, prices")
    regional = prices.pop("regions", {})
    for region, listed in [(None, prices), *regional.items()]:
        for name, facts in listed.get("machines", {}).items():
            listed["machines"][name] = _own_prices(path, name, facts, prices, region)
    head = ("region", "date", "source")
    kept = {key: value for key, value in prices.items() if key not in head}
    return {**table, "prices": {**kept, "regions": regional}}


def _own_prices(
    path: Path, name: str, facts: Any, head: dict[str, Any], region: str | None
) -> dict[str, Any]:
    """A machine's prices with what tells of them, apart from what the package's table tells of its own."""
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: prices: {name} is a table, such as {{spot = 28.17}}")
    prices = {kind: facts[kind] for kind in get_args(Capacity) if kind in facts}
    for kind, usd in prices.items():
        if isinstance(usd, bool) or not isinstance(usd, int | float) or usd < 0:
            raise ConfigError(f"{path}: prices: {name}: {kind} is {usd!r}; it is USD an hour")
    told = {"source": str(path), "date": "your own file"} | ({"region": region} if region else {})
    told |= {
        key: str(each[key]) for each in (head, facts) for key in ("region", "date", "source") if key in each
    }
    return {**prices, "own": {"kinds": list(prices), **told}}


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` lies over ``under``, table by table."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
