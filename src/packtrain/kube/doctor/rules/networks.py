"""Rules on the network interfaces of pods on several nodes: one for each of the GPUs' cards, and eth0."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.workloads import INTERFACES, Pod

DEFAULT_INTERFACE = "networking.gke.io/default-interface"
ETHERNET = tuple(f"eth{index}" for index in range(9))


def _on_host(pod: Pod) -> bool:
    """With the host's network, or every right, the pod needs no annotations for networks and devices."""
    return pod.spec["hostNetwork"].is_true


@rule(
    Pod,
    "PT621",
    "error",
    "The list of network interfaces is not JSON",
    source=sources.MULTI_NETWORK,
    fix="Write a JSON list: no comma after the last entry, names in double quotes.",
)
def interfaces_json(pod: Pod) -> Iterator[Problem]:
    annotation = pod.annotations[INTERFACES]
    if annotation.text:
        try:
            json.loads(annotation.text)
        except (ValueError, RecursionError) as error:
            comma = re.search(r",\s*\]", annotation.text)
            why = "a comma follows the last entry" if comma else str(error)
            yield annotation, f"the annotation {INTERFACES} is not JSON: {why}"


def _interfaces(pod: Pod) -> list[dict[str, Any]] | None:
    try:
        found = json.loads(pod.annotations[INTERFACES].text)
    except (ValueError, RecursionError):
        return None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else None


@rule(
    Pod,
    "PT622",
    "error",
    "Not the nine network interfaces of a3-megagpu-8g",
    source=sources.TCPXO,
    fix="List eth0 on the network default, and eth1 to eth8 on the pool's eight networks, each once.",
)
def nine_interfaces(pod: Pod) -> Iterator[Problem]:
    found = _interfaces(pod)
    if pod.daemon is None or found is None:
        return
    annotation = pod.annotations[INTERFACES]
    names = [str(entry.get("interfaceName")) for entry in found]
    networks = [str(entry.get("network")) for entry in found]
    if sorted(names) != list(ETHERNET):
        yield (
            annotation,
            f"GPUDirect-TCPXO needs eth0 to eth8, each once, and the pod has {', '.join(names) or 'none'}",
        )
    elif networks[names.index("eth0")] != "default":
        yield annotation, f"eth0 is on the network {networks[names.index('eth0')]}, not on default"
    elif len(set(networks)) < len(networks):
        yield annotation, "two interfaces are on the same network"


@rule(
    Pod,
    "PT623",
    "error",
    "GPUDirect-TCPXO without its networks",
    source=sources.TCPXO,
    fix=f"Set the annotations {DEFAULT_INTERFACE}: eth0 and {INTERFACES} on the pod template.",
)
def networks(pod: Pod) -> Iterator[Problem]:
    if pod.daemon is None or _on_host(pod):
        return
    if not pod.annotations[INTERFACES].present:
        yield pod.annotations, f"the annotation {INTERFACES} is not there: the pod has eth0 alone"
    default = pod.annotations[DEFAULT_INTERFACE]
    if default.text != "eth0":
        yield default, f"the annotation {DEFAULT_INTERFACE} is not eth0"


@rule(
    Document,
    "PT624",
    "error",
    "A network for GPUs of the wrong kind",
    source=sources.MULTI_NETWORK,
    fix="Network: type Device; GKENetworkParamSet: deviceMode NetDevice (RDMA on a3-ultragpu and later).",
)
def network_objects(document: Document) -> Iterator[Problem]:
    spec = document.root["spec"]
    if not document.root["apiVersion"].text.startswith("networking.gke.io/"):
        return
    if document.kind == "GKENetworkParamSet":
        mode = spec["deviceMode"]
        if mode.present and mode.text not in ("NetDevice", "RDMA", "DPDK-VFIO"):
            yield mode, f"deviceMode {mode.text or mode.value} is none of NetDevice, RDMA, DPDK-VFIO"
    elif document.kind == "Network" and spec.at("parametersRef", "kind").text == "GKENetworkParamSet":
        kind = spec["type"]
        if kind.text not in ("Device", "L3"):
            yield kind, f"type {kind.text or 'none'} is neither Device (for GPUs) nor L3"


@rule(
    Pod,
    "PT625",
    "error",
    "An interface on a network for other traffic",
    source=sources.MULTI_NETWORK,
    fix="Make the Network of type Device, with a GKENetworkParamSet of deviceMode NetDevice.",
)
def device_networks(pod: Pod) -> Iterator[Problem]:
    kinds = {each.name: each.root.at("spec", "type").text for each in pod.bundle.kind("Network")}
    for entry in (_interfaces(pod) or []) if pod.daemon is not None else ():
        network = str(entry.get("network"))
        if entry.get("interfaceName") != "eth0" and kinds.get(network, "Device") != "Device":
            yield pod.annotations[INTERFACES], f"network {network} is of type {kinds[network]}, not Device"


RULES = (
    interfaces_json,
    nine_interfaces,
    networks,
    network_objects,
    device_networks,
)
