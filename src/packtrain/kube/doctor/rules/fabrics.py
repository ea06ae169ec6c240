"""Rules on the GPUs' own networks of machines without GPUDirect-TCPXO: GPUDirect-TCPX and RDMA."""

from __future__ import annotations

import json
from collections.abc import Iterator

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.workloads import INTERFACES, Pod
from packtrain.kube.fabrics import TCPXO, Fabric


def _fabric(pod: Pod) -> Fabric | None:
    """GPUDirect-TCPXO has rules of its own, and pods on the host's network need no interfaces."""
    fabric = pod.fabric
    return None if fabric is TCPXO or pod.spec["hostNetwork"].is_true else fabric


@rule(
    Pod,
    "PT611",
    "warning",
    "Several nodes without the GPUs' own networks",
    source=sources.FABRICS,
    fix="Attach the networks (annotation networking.gke.io/interfaces), with NCCL's plugin; or use one node.",
)
def without_networks(pod: Pod) -> Iterator[Problem]:
    fabric = _fabric(pod)
    # GKE's managed networks are claimed, not named.
    claimed = pod.spec["resourceClaims"].present
    if fabric is not None and pod.finite and not claimed and not pod.annotations[INTERFACES].present:
        yield (
            pod.annotations,
            f"{pod.nodes} nodes with {pod.accelerator} and eth0 alone: without {fabric.name} they have "
            f"{fabric.without}",
        )


@rule(
    Pod,
    "PT612",
    "error",
    "Not an interface for each of the GPUs' network cards",
    source=sources.FABRICS,
    fix="List eth0 on the network default, and an interface for each of the GPUs' cards, on its own network.",
)
def each_card(pod: Pod) -> Iterator[Problem]:
    fabric = _fabric(pod)
    annotation = pod.annotations[INTERFACES]
    if fabric is None or not annotation.present:
        return
    try:
        listed = {each["interfaceName"]: each["network"] for each in json.loads(annotation.text)}
    except (ValueError, RecursionError, TypeError, KeyError):
        return  # PT621 tells
    networks = [network for name, network in listed.items() if name != "eth0"]
    wanted = len(fabric.attached)
    # The second gVNIC of a machine with RDMA may be attached, too.
    if len(networks) not in {wanted, len(fabric.cards)}:
        yield (
            annotation,
            f"{fabric.name} has {wanted} cards, and the pod has {len(networks)} interfaces for them",
        )
    elif len(set(networks)) < len(networks):
        yield annotation, "two interfaces are on the same network"
    elif listed.get("eth0") != "default":
        yield annotation, f"eth0 is on the network {listed.get('eth0', 'none')}, not on default"


RULES = (without_networks, each_card)
