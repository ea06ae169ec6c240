"""Rules on clusters, as ``gcloud container clusters describe --format=json`` prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packtrain.kube.doctor import facts, sources
from packtrain.kube.doctor.gcloud import Cluster
from packtrain.kube.doctor.rule import Problem, rule


@rule(
    Cluster,
    "PT931",
    "error",
    "A cluster without Workload Identity",
    source=sources.WORKLOAD_IDENTITY,
    fix="gcloud container clusters update CLUSTER --workload-pool=PROJECT.svc.id.goog",
)
def workload_pool(cluster: Cluster) -> Iterator[Problem]:
    pool = cluster.node.at("workloadIdentityConfig", "workloadPool")
    if not re.fullmatch(r"[a-z0-9:.-]+\.svc\.id\.goog", pool.text):
        yield pool, f"the workload pool is {pool.text or 'not set'}: pods have the rights of their nodes"


def _several_networks(cluster: Cluster) -> bool:
    return any(list(pool.networks) for pool in cluster.pools)


@rule(
    Cluster,
    "PT932",
    "error",
    "Networks for GPUs in a cluster that has one network",
    source=sources.MULTI_NETWORK,
    fix="Only a new cluster can: --enable-multi-networking --enable-dataplane-v2 --enable-ip-alias.",
)
def multi_networking(cluster: Cluster) -> Iterator[Problem]:
    network = cluster.node["networkConfig"]
    if not _several_networks(cluster):
        return
    if not network["enableMultiNetworking"].is_true:
        yield network["enableMultiNetworking"], "a pool has additional networks, and pods cannot reach them"
    if network["datapathProvider"].text != "ADVANCED_DATAPATH":
        provider = network["datapathProvider"]
        yield (
            provider,
            f"several networks need Dataplane V2, and the cluster has {provider.text or 'none set'}",
        )


@rule(
    Cluster,
    "PT933",
    "error",
    "A cluster without native sidecars",
    source=sources.SIDECARS,
    fix="Upgrade the control plane and the pools.",
)
def sidecars(cluster: Cluster) -> Iterator[Problem]:
    version, first = cluster.node["currentMasterVersion"], facts.minimum("sidecars")
    if _several_networks(cluster) and facts.older(version.text, first):
        yield version, f"GKE {version.text} is older than {first}: a receive daemon keeps its Job from ending"


RULES = (workload_pool, multi_networking, sidecars)
