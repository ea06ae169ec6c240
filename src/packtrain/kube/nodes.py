"""Which GPU nodes run in a cluster, and what they cost an hour: what a forgotten pool does to a bill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from packtrain.errors import PacktrainError
from packtrain.kube.api import NODE, Cluster
from packtrain.kube.pod import ACCELERATOR, FLEX_START, INSTANCE_TYPE, NODE_POOL, QUEUED, SPOT
from packtrain.plan.machines import Capacity, machines, price_per_hour


@dataclass(frozen=True)
class NodeUse:
    """Nodes of one kind."""

    machine: str
    capacity: Capacity
    pool: str
    count: int
    usd_per_hour: float | None
    """List price of all of them; None where it is not known."""


def gpu_nodes(cluster: Cluster) -> list[NodeUse] | None:
    """None where they cannot be listed: that is no reason for a run, which is over, to fail."""
    try:
        return used(cluster.list(NODE, ACCELERATOR).items)
    except PacktrainError:
        return None


def used(nodes: Iterable[dict[str, Any]]) -> list[NodeUse]:
    kinds: Counter[tuple[str, Capacity, str]] = Counter()
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        machine = labels.get(INSTANCE_TYPE) or labels.get(ACCELERATOR, "unknown")
        kinds[machine, _capacity(labels), labels.get(NODE_POOL, "")] += 1
    return [NodeUse(*kind, count, _usd(kind[0], kind[1], count)) for kind, count in sorted(kinds.items())]


def sentence(found: list[NodeUse] | None, cluster: str) -> str:
    """For the end of a run."""
    if found is None:
        return f"Which GPU nodes still run in {cluster} cannot be seen (kubectl get nodes)."
    if not found:
        return f"No GPU node runs in {cluster} any more."
    kinds = [f"{use.count} × {use.machine} ({use.capacity}{_price(use)})" for use in found]
    pools = sorted({use.pool for use in found if use.pool})
    where = f" (node pool {', '.join(pools)})" if pools else ""
    return (
        f"GPU nodes that still run in {cluster}: {', '.join(kinds)}{where}. An autoscaled pool removes idle "
        "ones after about ten minutes; another one costs until it is resized to 0."
    )


def _price(use: NodeUse) -> str:
    return "" if use.usd_per_hour is None else f", about {use.usd_per_hour:,.2f} USD an hour at list price"


def _capacity(labels: dict[str, str]) -> Capacity:
    if SPOT in labels:
        return "spot"
    if QUEUED in labels:
        return "queued"
    return "flex-start" if FLEX_START in labels else "on-demand"


def _usd(machine: str, capacity: Capacity, count: int) -> float | None:
    known = machines().get(machine)
    usd = price_per_hour(known, capacity).usd if known else None
    return None if usd is None else usd * count
