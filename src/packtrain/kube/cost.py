"""What a run's nodes cost, in sentences for before and after."""

from __future__ import annotations

from packtrain.config import RunConfig
from packtrain.plan.machines import Capacity, Machine, machine, price_per_hour


def price_sentence(config: RunConfig) -> str:
    cluster = config.cluster
    known, where = machine(cluster.machine), cluster.location
    return node_price(known, cluster.capacity, cluster.nodes, location=where)


def node_price(
    known: Machine, capacity: Capacity, nodes: int = 1, until: str = "", location: str | None = None
) -> str:
    """What ``nodes`` of a machine cost an hour; ``until``: how long they do."""
    price = price_per_hour(known, capacity, location)
    what = f"{nodes} × {known.name} ({known.gpus} × {known.gpu_name}), {capacity}"
    if price.usd is None:
        return f"{what}: packtrain knows no list price"
    bound, hour = "at most " if price.upper_bound else "", f"USD an hour {until}".rstrip()
    listed = f"list price, {price.region}, {price.date}; yours may differ"
    return f"{what}: {bound}{price.usd * nodes:,.2f} {hour} ({listed})"


def budget_sentence(config: RunConfig) -> str:
    cluster = config.cluster
    if cluster.max_cost is None:
        return "No max_cost: the run ends when it is done."
    usd = price_per_hour(machine(cluster.machine), cluster.capacity, cluster.location).usd
    lasts = (
        f", after about {float(cluster.max_cost.split()[0]) / (usd * cluster.nodes):.1f} hours" if usd else ""
    )
    return f"It stops with a checkpoint at {cluster.max_cost}{lasts}."
