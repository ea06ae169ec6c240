"""The back-stops of time: what Kubernetes and Kueue end, should the run's own count of its cost not.

They are no budget. ``activeDeadlineSeconds`` counts the time in which a pod waits for a node, and begins
anew with a Job that was suspended; so it has slack, and the supervisor is what keeps ``cluster.max_cost``.
"""

from __future__ import annotations

import math

from packtrain.kube.launch import Launch
from packtrain.plan.machines import price_per_hour

#: A node that Dynamic Workload Scheduler gives is taken away after this.
LONGEST_FLEXIBLE = 7 * 86_400
#: What pods may wait for capacity, at most, before the deadline eats into the run's own time.
WAITING = 86_400
#: How much longer than its money lasts a run may take: start-up, publishing, a price that has changed.
SLACK = 2.0
#: Pods and their logs stay this long after the end.
KEPT = 3 * 86_400


def paid_seconds(launch: Launch) -> float | None:
    """How long ``cluster.max_cost`` lasts at the list price; None without a budget or a price."""
    cluster = launch.config.cluster
    price = price_per_hour(launch.machine, cluster.capacity, cluster.location)
    if cluster.max_cost is None or price.usd is None:
        return None
    return float(cluster.max_cost.split()[0]) / (price.usd * cluster.nodes) * 3600


def active_deadline(launch: Launch) -> int | None:
    """``activeDeadlineSeconds``; None where nothing bounds the run."""
    paid = paid_seconds(launch)
    return None if paid is None else math.ceil(SLACK * paid) + WAITING


def longest_run(launch: Launch) -> int | None:
    """Seconds after which Kueue ends the workload; it does not count waiting."""
    paid = paid_seconds(launch)
    flexible = launch.config.cluster.capacity in ("queued", "flex-start")
    known = [LONGEST_FLEXIBLE] if flexible else []
    known += [math.ceil(SLACK * paid)] if paid is not None else []
    return min(known, default=None)
