"""The steps about the cluster: itself, its node pool of GPUs, and kubectl's way in."""

from __future__ import annotations

import os
from typing import Any

from packtrain.gcp.ask import ask, checked
from packtrain.gcp.commands import MAKING, Command, Runner
from packtrain.gcp.looks import describe, list_pools
from packtrain.gcp.networks import subnetwork_name, vpc_name
from packtrain.gcp.site import Site
from packtrain.gcp.steps import LABEL, Seen, Step, remove_if_ours

#: Of the nodes that run no training: system pods, Kueue, the preflight pod.
SYSTEM_MACHINE = "e2-standard-4"
METADATA = "GKE_METADATA"


def cluster_step(site: Site, *, create: bool, zone: str | None) -> Step:
    multi = ("--enable-multi-networking",) if site.fabric else ()
    zones = (f"--node-locations={zone}",) if zone and zone != site.location else ()
    make = Command(
        (
            "gcloud", "container", "clusters", "create", site.cluster, *site.at_cluster, *zones,
            "--release-channel=regular", "--enable-ip-alias", "--enable-dataplane-v2", *multi,
            f"--workload-pool={site.workload_pool}", f"--workload-metadata={METADATA}",
            f"--machine-type={SYSTEM_MACHINE}", "--num-nodes=1", f"--labels={LABEL}",
        )
    )  # fmt: skip
    undo = Command(("gcloud", "container", "clusters", "delete", site.cluster, *site.at_cluster, "--quiet"))

    def look(runner: Runner, _: bool) -> Seen:
        found = ask(runner, describe(site))
        if found is None and not create:
            return Seen(
                "yours",
                f"there is no cluster {site.cluster} in {site.location}",
                "packtrain cloud setup RUN --create-cluster makes it; or check cluster.name and its location",
                blocks=True,
            )
        return Seen("make", "is not there") if found is None else look_at_cluster(site, found)

    return Step(
        "cluster",
        f"cluster {site.cluster} in {site.location}",
        "runs the pods; with Workload Identity, so that a pod needs no key file",
        look,
        (make,),
        remove_if_ours((undo,), ", with all that runs in it"),
        MAKING,
    )


def look_at_cluster(site: Site, found: dict[str, Any]) -> Seen:
    ours = (found.get("resourceLabels") or {}).get("managed-by") == "packtrain"
    update = f"gcloud container clusters update {site.cluster} --location={site.location} {site.in_project}"
    pool = (found.get("workloadIdentityConfig") or {}).get("workloadPool")
    network = found.get("networkConfig") or {}
    status = found.get("status", "RUNNING")
    if status in {"ERROR", "STOPPING"}:
        return Seen("differs", f"is {status}", "look at it in the console, or delete it", True, ours)
    if status == "PROVISIONING":
        return Seen("make", "is being made", ours=ours, remaining=())
    if pool != site.workload_pool:
        wanted = f"--workload-pool={site.workload_pool}"
        said = f"has the workload pool {pool}" if pool else "has no Workload Identity"
        return Seen("differs", said, f"switch it on: {update} {wanted}", True, ours)
    if site.fabric and not (
        network.get("enableMultiNetworking") and network.get("datapathProvider") == "ADVANCED_DATAPATH"
    ):
        return Seen(
            "differs",
            f"has no multi-networking (Dataplane V2), which {site.nodes} nodes of {site.machine.name} need",
            "it is chosen when a cluster is made: another cluster.name with --create-cluster",
            True,
            ours,
        )
    return Seen("there", f"version {found.get('currentMasterVersion', 'unknown')}", ours=ours)


def credentials_step(site: Site) -> Step | None:
    """kubectl's way in. None where ``PACKTRAIN_KUBECONFIG`` names one."""
    if os.environ.get("PACKTRAIN_KUBECONFIG"):
        return None
    make = Command(("gcloud", "container", "clusters", "get-credentials", site.cluster, *site.at_cluster))

    def look(runner: Runner, _: bool) -> Seen:
        found = ask(runner, describe(site))
        if found is None or found.get("status") == "PROVISIONING":
            return Seen("later", "when the cluster is there")
        # A file of this machine, and so no change that has to be asked for.
        site.kubeconfig.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        checked(runner, make)
        return Seen("there", "a kubeconfig of packtrain's own; yours is not touched")

    return Step("credentials", "kubectl's way in", "for the steps inside the cluster", look, (make,))


def pool_step(site: Site, *, create: bool, zone: str | None) -> Step:
    at = (f"--cluster={site.cluster}", *site.at_cluster)
    make = Command(("gcloud", "container", "node-pools", "create", site.pool, *at, *pool_flags(site, zone)))
    undo = Command(("gcloud", "container", "node-pools", "delete", site.pool, *at, "--quiet"))

    def look(runner: Runner, _: bool) -> Seen:
        cluster = ask(runner, describe(site))
        pools = None if cluster is None else ask(runner, list_pools(site))
        if cluster is not None and (cluster.get("autopilot") or {}).get("enabled"):
            return Seen("there", "Autopilot makes the nodes by itself")
        fitting = [pool for pool in pools or [] if fits(site, pool)]
        named = next((pool for pool in pools or [] if pool["name"] == site.pool), None)
        if not fitting and named is not None:
            return Seen("differs", f"pool {site.pool}: {difference(site, named)}", _again(site), True)
        if not fitting and not create:
            return Seen(
                "yours",
                f"no node pool has {site.machine.name} as {site.capacity}",
                "packtrain cloud setup RUN --create-pool makes one that scales from zero",
            )
        if not fitting:
            return Seen("make", "is not there")
        pool = next((each for each in fitting if each["name"] == site.pool), fitting[0])
        return _fitting(site, pool)

    return Step(
        "pool",
        f"node pool {site.pool}",
        f"has the GPUs; scales from zero to {site.nodes}, so that nothing is paid while nothing runs",
        look,
        (make,),
        remove_if_ours((undo,)),
        MAKING,
    )


def _fitting(site: Site, pool: dict[str, Any]) -> Seen:
    config = pool.get("config") or {}
    ours = (config.get("resourceLabels") or {}).get("managed-by") == "packtrain"
    mode = (config.get("workloadMetadataConfig") or {}).get("mode")
    if pool.get("status") in {"ERROR", "STOPPING"}:
        return Seen("differs", f"pool {pool['name']} is {pool['status']}", _again(site), True, ours)
    if mode not in {None, METADATA}:
        fix = f"gcloud container node-pools update {pool['name']} --cluster={site.cluster}"
        fix += f" --location={site.location} {site.in_project} --workload-metadata={METADATA}"
        return Seen("differs", f"pool {pool['name']} hides Workload Identity from pods", fix, True, ours)
    return Seen("there", f"pool {pool['name']}", ours=ours and pool["name"] == site.pool)


def fits(site: Site, pool: dict[str, Any]) -> bool:
    return difference(site, pool) is None


def difference(site: Site, pool: dict[str, Any]) -> str | None:
    """What keeps a pool from being the one that the run needs."""
    config = pool.get("config") or {}
    if config.get("machineType") != site.machine.name:
        return f"has {config.get('machineType')}, not {site.machine.name}"
    kind = capacity_of(pool)
    if kind != site.capacity:
        return f"is {kind}, not {site.capacity}"
    if site.pool_by_name and pool["name"] != site.pool:
        return f"is not {site.pool}, which the pods ask for by name"
    networks = (pool.get("networkConfig") or {}).get("additionalNodeNetworkConfigs") or []
    if site.fabric and len(networks) != len(site.fabric.cards):
        return f"has {len(networks)} networks for GPUs, not {len(site.fabric.cards)}"
    return None


def capacity_of(pool: dict[str, Any]) -> str:
    config = pool.get("config") or {}
    affinity = (config.get("reservationAffinity") or {}).get("consumeReservationType")
    if (pool.get("queuedProvisioning") or {}).get("enabled"):
        return "queued"
    if config.get("flexStart"):
        return "flex-start"
    if config.get("spot"):
        return "spot"
    return "reservation" if affinity == "SPECIFIC_RESERVATION" else "on-demand"


def pool_flags(site: Site, zone: str | None) -> tuple[str, ...]:
    """How the pool is made: the machine, then how its nodes are bought."""
    machine = site.machine
    ssd = (f"--ephemeral-storage-local-ssd=count={machine.local_ssds}",) if machine.local_ssds else ()
    scale = (
        "--enable-autoscaling",
        "--num-nodes=0",
        f"--total-max-nodes={site.nodes}",
        "--location-policy=ANY",
    )
    kinds = {
        "on-demand": (),
        "spot": ("--spot",),
        "flex-start": ("--flex-start", "--reservation-affinity=none", "--no-enable-autorepair"),
        "queued": (
            "--flex-start",
            "--enable-queued-provisioning",
            "--reservation-affinity=none",
            "--no-enable-autorepair",
        ),
        "reservation": ("--reservation-affinity=specific", f"--reservation={site.reservation}"),
    }
    return (
        *((f"--node-locations={zone}",) if zone else ()),
        f"--machine-type={machine.name}",
        f"--accelerator=type={machine.accelerator},count={machine.gpus},gpu-driver-version=LATEST",
        "--image-type=COS_CONTAINERD",
        *ssd,
        "--enable-gvnic",
        f"--workload-metadata={METADATA}",
        *scale,
        *kinds[site.capacity],
        *(
            f"--additional-node-network=network={vpc_name(site, card.vpc)},"
            f"subnetwork={subnetwork_name(site, card)}"
            for card in (site.fabric.cards if site.fabric else ())
        ),
        f"--labels={LABEL}",
    )


def _again(site: Site) -> str:
    delete = f"gcloud container node-pools delete {site.pool} --cluster={site.cluster}"
    return f"delete it and run this again: {delete} --location={site.location} {site.in_project}"
