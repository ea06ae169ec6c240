"""Launches for tests of what is made of them: the reference job, with a cluster as the test wants it."""

from __future__ import annotations

import functools
from typing import Any

from packtrain.config import RunConfig, config_hash
from packtrain.kube.launch import Launch
from packtrain.plan.machines import Machine, machines
from packtrain.runfile import dump

IMAGE = "us-central1-docker.pkg.dev/my-project/packtrain/trainer@sha256:" + "0123456789abcdef" * 4
RUN_ID = "01JD0000000000000000000000"
CAPACITIES = ("on-demand", "spot", "flex-start", "queued", "reservation")
QUEUES = (None, "team-a")


def config_of(**sections: Any) -> RunConfig:
    """The reference run file; a section given here is added to its own."""
    base: dict[str, Any] = {
        "name": "llama3-8b-dolly",
        "model": {"source": "meta-llama/Meta-Llama-3-8B-Instruct"},
        "data": {"train": "databricks/databricks-dolly-15k"},
        "output": {"uri": "gs://my-bucket/final_model"},
        "cluster": {"project": "my-project", "location": "us-central1", "name": "my-cluster"},
    }
    for name, value in sections.items():
        base[name] = base.get(name, {}) | value if isinstance(value, dict) else value
    return RunConfig.model_validate(base)


def launch_of(config: RunConfig | None = None, image: str = IMAGE, **cluster: Any) -> Launch:
    if config is None and image == IMAGE:
        return _launch_at(tuple(sorted(cluster.items())))
    config = config or config_of(cluster=cluster)
    return Launch(
        config=config,
        run_yaml=dump(config),
        run_id=RUN_ID,
        image=image,
        config_hash=config_hash(config),
    )


@functools.cache
def _launch_at(cluster: tuple[tuple[str, Any], ...]) -> Launch:
    return launch_of(config_of(cluster=dict(cluster)))


def nodes_of(machine: Machine) -> tuple[int, ...]:
    """How many nodes of a machine a run may have, by example."""
    return (1, 2, 16) if machine.tcpxo else (1, 2)


def every_cluster() -> list[dict[str, Any]]:
    """Each machine with each number of nodes, each capacity, and with and without a queue."""
    found: list[dict[str, Any]] = []
    for machine in machines().values():
        for nodes in nodes_of(machine):
            for capacity in CAPACITIES:
                for queue in QUEUES:
                    if capacity == "queued" and queue is None:
                        continue
                    cluster = {"machine": machine.name, "nodes": nodes, "capacity": capacity, "queue": queue}
                    if capacity == "reservation":
                        cluster["reservation"] = "my-reservation"
                    found.append(cluster)
    return found


def cluster_id(cluster: dict[str, Any]) -> str:
    queue = "-queue" if cluster["queue"] else ""
    return f"{cluster['nodes']}x{cluster['machine']}-{cluster['capacity']}{queue}"
