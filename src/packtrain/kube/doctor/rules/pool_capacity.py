"""Rules on how a pool's nodes are bought: Spot, flex-start, queued, reserved; and what idle ones cost."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packtrain.kube.doctor import facts, sources
from packtrain.kube.doctor.gcloud import NodePool
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.limits import LONGEST_FLEXIBLE


@rule(
    NodePool,
    "PT921",
    "error",
    "A flex-start or queued pool with settings that it cannot have",
    source=sources.FLEX_START,
    fix="--enable-autoscaling --num-nodes=0 --total-max-nodes=N --location-policy=ANY "
    "--reservation-affinity=none --no-enable-autorepair",
)
def flexible(pool: NodePool) -> Iterator[Problem]:
    if not (pool.flex_start or pool.queued):
        return
    kind = "flex-start" if pool.flex_start else "queued"
    scaling, affinity = (
        pool.node["autoscaling"],
        pool.config.at("reservationAffinity", "consumeReservationType"),
    )
    if not scaling["enabled"].is_true:
        yield scaling, f"a {kind} pool needs autoscaling, or it never gets a node"
    if affinity.text != "NO_RESERVATION":
        yield affinity, f"a {kind} pool must not use reservations (it is {affinity.text or 'not set'})"
    repair = pool.node.at("management", "autoRepair")
    if repair.is_true:
        yield repair, f"a {kind} pool must not repair nodes: a repaired one would have to be found anew"


@rule(
    NodePool,
    "PT922",
    "warning",
    "A flex-start or queued pool that looks for capacity in one way only",
    source=sources.FLEX_START,
    fix="--location-policy=ANY, and zero nodes to begin with.",
)
def flexible_location(pool: NodePool) -> Iterator[Problem]:
    if pool.flex_start or pool.queued:
        policy, first = pool.node.at("autoscaling", "locationPolicy"), pool.node["initialNodeCount"]
        if policy.text != "ANY":
            yield (
                policy,
                f"the location policy is {policy.text or 'not set'}: nodes in any zone are more likely",
            )
        if first.integer:
            yield first, f"the pool begins with {first.integer} nodes"


@rule(
    NodePool,
    "PT923",
    "error",
    "Flex-start on a GKE that does not have it",
    source=sources.FLEX_START,
    fix="Upgrade the control plane and the pool.",
)
def flex_start_version(pool: NodePool) -> Iterator[Problem]:
    version, first = pool.node["version"], facts.minimum("flex_start")
    if pool.flex_start and facts.older(version.text, first):
        yield version, f"GKE {version.text} is older than {first}"
    longest = re.fullmatch(r"(\d+)s", pool.config["maxRunDuration"].text)
    if pool.flex_start and longest and int(longest[1]) > LONGEST_FLEXIBLE:
        yield pool.config["maxRunDuration"], f"nodes of flex-start live {LONGEST_FLEXIBLE} s at most"


@rule(
    NodePool,
    "PT924",
    "error",
    "A reservation that is not named, or cannot be used",
    source=sources.RESERVATIONS,
    fix="--reservation-affinity=specific --reservation=R; Spot nodes are never of a reservation.",
)
def reservation(pool: NodePool) -> Iterator[Problem]:
    affinity = pool.config["reservationAffinity"]
    if affinity["consumeReservationType"].text != "SPECIFIC_RESERVATION":
        return
    if not any(value.text for value in affinity["values"]):
        yield affinity, "a specific reservation is asked for, and none is named"
    if pool.spot:
        yield affinity, "Spot nodes do not use reservations: the reservation is paid and stays empty"


@rule(
    NodePool,
    "PT925",
    "error",
    "More time for Spot pods than GKE can give",
    source=sources.SPOT,
    fix="120 s at most, on GKE 1.35 and later.",
)
def longer_grace(pool: NodePool) -> Iterator[Problem]:
    seconds = pool.config.at("kubeletConfig", "shutdownGracePeriodSeconds")
    if not seconds.integer:
        return
    _, longest = facts.spot_grace()
    first, version = facts.minimum("longer_grace"), pool.node["version"].text
    if seconds.integer > longest:
        yield seconds, f"{seconds.integer} s is more than the {longest} s that a preempted node has"
    elif facts.older(version, first):
        yield seconds, f"GKE {version} is older than {first} and does not heed it"


@rule(
    NodePool,
    "PT926",
    "info",
    "A Spot pool with the short notice",
    source=sources.SPOT,
    fix="Set kubeletConfig.shutdownGracePeriodSeconds to 120 s at most, where saving takes longer than 15 s.",
)
def short_grace(pool: NodePool) -> Iterator[Problem]:
    seconds = pool.config.at("kubeletConfig", "shutdownGracePeriodSeconds")
    version = pool.node["version"].text
    new = bool(version) and not facts.older(version, facts.minimum("longer_grace"))
    if pool.has_gpus and pool.spot and not seconds.integer and new:
        yield seconds, f"pods have {facts.spot_grace()[0]} s to save when a node is preempted"


@rule(
    NodePool,
    "PT927",
    "warning",
    "GPUs that are paid while nothing runs",
    source=sources.AUTOSCALER,
    fix="--enable-autoscaling with a minimum of zero nodes.",
)
def scales_to_zero(pool: NodePool) -> Iterator[Problem]:
    reserved = pool.config.at("reservationAffinity", "consumeReservationType").text == "SPECIFIC_RESERVATION"
    scaling = pool.node["autoscaling"]
    least = scaling["minNodeCount"].integer or scaling["totalMinNodeCount"].integer or 0
    if not pool.has_gpus or reserved:
        return
    if not scaling["enabled"].is_true and pool.node["initialNodeCount"].integer != 0:
        yield scaling, "the pool does not scale: its nodes are paid until somebody deletes them"
    elif scaling["enabled"].is_true and least:
        yield scaling, f"the pool keeps {least} nodes at least, also when nothing runs"


RULES = (
    flexible,
    flexible_location,
    flex_start_version,
    reservation,
    longer_grace,
    short_grace,
    scales_to_zero,
)
