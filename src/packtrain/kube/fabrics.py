"""What carries the GPUs' traffic between nodes: its networks, and what has to be in a cluster for it.

Said once: setup makes the networks, manifests name them, and the doctor looks for them. Only several nodes
use them: within a node it is NVLink. Sources: container-engine-accelerators at 992db812 (gpudirect-tcpx,
gpudirect-tcpxo, gpudirect-rdma), and cluster-toolkit at 1047080 (its examples for these machines).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from packtrain.plan.machines import Machine

Mode = Literal["NetDevice", "RDMA"]


@dataclass(frozen=True)
class Vpc:
    """A network of Google Cloud, with a subnetwork for each of its cards; names follow the cluster's."""

    suffix: str
    mtu: int
    roce: bool = False
    """With a zone's network profile for RDMA over Converged Ethernet: it lets all of itself in, and takes no
    firewall rules of the usual kind. https://cloud.google.com/vpc/docs/rdma-network-profiles"""


@dataclass(frozen=True)
class Card:
    """A network card of a node, besides eth0, and the Network object that stands for it."""

    network: str
    mode: Mode
    vpc: Vpc
    subnetwork: str
    """Suffix."""
    interface: str | None
    """In the pod; None for one that it does not use."""


@dataclass(frozen=True)
class Fabric:
    name: str
    cards: tuple[Card, ...]
    addons: tuple[str, ...]
    """Keys of ``gcp/addons.toml``."""
    without: str
    """What several nodes have without it."""

    @property
    def vpcs(self) -> tuple[Vpc, ...]:
        return tuple(dict.fromkeys(card.vpc for card in self.cards))

    @property
    def zonal(self) -> bool:
        """Its networks are of one zone, which has to be named."""
        return any(vpc.roce for vpc in self.vpcs)

    @property
    def attached(self) -> tuple[Card, ...]:
        """The cards that the pods use."""
        return tuple(card for card in self.cards if card.interface)


def _gpu_networks(count: int) -> tuple[Card, ...]:
    """One network a card, eth1 and on, with jumbo frames."""
    names = [f"gpu-{index}" for index in range(1, count + 1)]
    return tuple(
        Card(f"vpc{index}", "NetDevice", Vpc(name, 8244), name, f"eth{index}")
        for index, name in enumerate(names, start=1)
    )


def _rdma() -> tuple[Card, ...]:
    """A second gVNIC, which the node needs and the pods do not, and eight cards on one network for RDMA."""
    gvnic, rdma = Vpc("gvnic", 8896), Vpc("rdma", 8896, roce=True)
    gpus = [Card(f"rdma-{index}", "RDMA", rdma, f"rdma-{index}", f"eth{index + 2}") for index in range(8)]
    return (Card("gvnic-1", "NetDevice", gvnic, "gvnic", None), *gpus)


TCPXO = Fabric(
    "GPUDirect-TCPXO",
    _gpu_networks(8),
    ("tcpxo-installer", "device-injector"),
    "a sixth of the bandwidth",
)
TCPX = Fabric(
    "GPUDirect-TCPX",
    _gpu_networks(4),
    ("tcpx-installer", "device-injector"),
    "a fifth of the bandwidth",
)
RDMA = Fabric(
    "GPUDirect-RDMA",
    _rdma(),
    ("rdma-installer",),
    "a ninth of the bandwidth",
)
_FABRICS = {"tcpxo": TCPXO, "tcpx": TCPX, "rdma": RDMA}


def fabric_of(machine: Machine) -> Fabric | None:
    """None for machines whose nodes have one network card."""
    return _FABRICS.get(machine.fabric)


def fabric_between(machine: Machine, nodes: int) -> Fabric | None:
    """The one that a run of so many nodes uses."""
    return fabric_of(machine) if nodes > 1 else None
