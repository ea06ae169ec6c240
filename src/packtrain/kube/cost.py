"""What a run's nodes cost, in sentences for before and after."""

from __future__ import annotations

from packtrain.config import RunConfig
from packtrain.plan.machines import machine, price_per_hour


def price_sentence(config: RunConfig) -> str:
    cluster = config.cluster
    known = machine(cluster.machine)
    price = price_per_hour(known, cluster.capacity)
    nodes = f"{cluster.nodes} × {known.name} ({known.gpus} × {known.gpu_name}), {cluster.capacity}"
    if price.usd is None:
        return f"{nodes}: packtrain knows no list price"
    usd = price.usd * cluster.nodes
    bound = "at most " if price.upper_bound else ""
    return (
        f"{nodes}: {bound}{usd:,.2f} USD an hour (list price, {price.region}, {price.date}; yours may differ)"
    )


def budget_sentence(config: RunConfig) -> str:
    cluster = config.cluster
    if cluster.max_cost is None:
        return "No max_cost: the run ends when it is done."
    usd = price_per_hour(machine(cluster.machine), cluster.capacity).usd
    lasts = (
        f", after about {float(cluster.max_cost.split()[0]) / (usd * cluster.nodes):.1f} hours" if usd else ""
    )
    return f"It stops with a checkpoint at {cluster.max_cost}{lasts}."
