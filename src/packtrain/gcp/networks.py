"""The networks of the GPUs' own cards: in Google Cloud, and as objects in the cluster.

Only several nodes with GPUDirect-TCPXO use them: one network a card, with jumbo frames, closed to all
but itself. https://cloud.google.com/kubernetes-engine/docs/how-to/gpu-bandwidth-gpudirect-tcpx
"""

from __future__ import annotations

from typing import Any

from packtrain.gcp import kubectl
from packtrain.gcp.ask import ask
from packtrain.gcp.commands import MAKING, Command, Runner
from packtrain.gcp.looks import cluster_is_there
from packtrain.gcp.site import Site
from packtrain.gcp.steps import LABEL, Seen, Step, Undo
from packtrain.kube.names import networks as object_names

MTU = 8244
GROUP = "networking.gke.io"
_DESCRIBED = f"--description={LABEL}"


def network_name(site: Site, card: int) -> str:
    return f"{site.cluster}-gpu-{card}"


def subnetwork_name(site: Site, card: int) -> str:
    return f"{site.cluster}-gpu-{card}"


def networks_step(site: Site) -> Step:
    cards = range(1, site.gpu_networks + 1)
    made = {card: _create(site, card) for card in cards}

    def missing(runner: Runner) -> tuple[list[Command], list[str]]:
        """Commands that are left, and what is there that is not ours."""
        there = {kind: _listed(runner, site, kind) for kind in ("networks", "subnets", "firewall-rules")}
        left: list[Command] = []
        foreign: list[str] = []
        for card, commands in made.items():
            for kind, command in commands.items():
                name = network_name(site, card)
                found = there[kind].get(name)
                if found is None:
                    left.append(command)
                elif found.get("description") != LABEL:
                    foreign.append(f"{kind} {name}")
        return left, foreign

    def look(runner: Runner, _: bool) -> Seen:
        left, foreign = missing(runner)
        if left:
            said = "are not there" if len(left) == 3 * len(cards) else f"{len(left)} commands are left"
            return Seen("make", said, remaining=tuple(left), ours=not foreign)
        return Seen("there", f"{len(cards)} networks", ours=not foreign)

    def undo(runner: Runner, _: Seen) -> Undo:
        commands = []
        for kind in ("firewall-rules", "subnets", "networks"):
            names = (network_name(site, card) for card in cards)
            listed = _listed(runner, site, kind)
            commands += [
                _delete(site, kind, name)
                for name in names
                if (found := listed.get(name)) and found.get("description") == LABEL
            ]
        if commands:
            return Undo("remove", "made by packtrain", tuple(commands))
        return Undo("gone", "are not there, or were not made by packtrain")

    return Step(
        "networks",
        f"{site.gpu_networks} networks for the GPUs' network cards",
        f"GPUDirect-TCPXO between {site.nodes} nodes: without them a sixth of the bandwidth",
        look,
        tuple(command for commands in made.values() for command in commands.values()),
        undo,
        MAKING,
    )


def _create(site: Site, card: int) -> dict[str, Command]:
    name, span = network_name(site, card), f"192.168.{card}.0/24"
    compute = ("gcloud", "compute")
    return {
        "networks": Command(
            (*compute, "networks", "create", name, site.in_project, "--subnet-mode=custom", f"--mtu={MTU}",
             _DESCRIBED)
        ),
        "subnets": Command(
            (*compute, "networks", "subnets", "create", subnetwork_name(site, card), site.in_project,
             f"--network={name}", f"--region={site.region}", f"--range={span}", _DESCRIBED)
        ),
        "firewall-rules": Command(
            (*compute, "firewall-rules", "create", name, site.in_project, f"--network={name}",
             "--action=ALLOW", "--rules=tcp:0-65535,udp:0-65535,icmp", f"--source-ranges={span}", _DESCRIBED)
        ),
    }  # fmt: skip


def _listed(runner: Runner, site: Site, kind: str) -> dict[str, dict[str, Any]]:
    words = ("networks", "subnets") if kind == "subnets" else (kind,)
    where = (f"--regions={site.region}",) if kind == "subnets" else ()
    argv = ("gcloud", "compute", *words, "list", site.in_project, *where, "--format=json(name,description)")
    return {each["name"]: each for each in ask(runner, Command(argv)) or []}


def _delete(site: Site, kind: str, name: str) -> Command:
    words = ("networks", "subnets") if kind == "subnets" else (kind,)
    where = (f"--region={site.region}",) if kind == "subnets" else ()
    return Command(("gcloud", "compute", *words, "delete", name, site.in_project, *where, "--quiet"))


def network_objects_step(site: Site) -> Step:
    names = object_names(site.gpu_networks)
    objects = [each for card, name in enumerate(names, start=1) for each in _objects(site, card, name)]

    def look(runner: Runner, _: bool) -> Seen:
        if not cluster_is_there(runner, site):
            return Seen("later", "when the cluster is there")
        found = {name: ask(runner, kubectl.get(f"gkenetworkparamsets.{GROUP}", name)) for name in names}
        there = {name: each for name, each in found.items() if each}
        for card, name in enumerate(names, start=1):
            vpc = there.get(name, {}).get("spec", {}).get("vpc")
            if vpc not in {None, network_name(site, card)}:
                return Seen(
                    "differs", f"{name} is of the network {vpc}",
                    "the pods use the networks by these names: that they are there is enough",
                )  # fmt: skip
        if len(there) < len(names):
            said = "are not there" if not there else f"{len(there)} of {len(names)} are there"
            return Seen("make", said)
        return Seen("there", f"{names[0]} to {names[-1]}", ours=all(map(kubectl.is_ours, there.values())))

    def undo(runner: Runner, seen: Seen) -> Undo:
        if seen.state == "later":
            return Undo("gone", "is not there")
        commands = tuple(
            kubectl.delete(kind, name)
            for name in names
            for kind in (f"networks.{GROUP}", f"gkenetworkparamsets.{GROUP}")
            if (found := ask(runner, kubectl.get(kind, name))) and kubectl.is_ours(found)
        )
        if commands:
            return Undo("remove", "made by packtrain", commands)
        return Undo("gone", "are not there, or were not made by packtrain")

    return Step(
        "network-objects",
        f"networks {names[0]} to {names[-1]} in the cluster",
        "what the pods' annotations name",
        look,
        (kubectl.apply(*objects),),
        undo,
    )


def _objects(site: Site, card: int, name: str) -> list[dict[str, Any]]:
    parameters = {"vpc": network_name(site, card), "vpcSubnet": subnetwork_name(site, card)}
    reference = {"group": GROUP, "kind": "GKENetworkParamSet", "name": name}
    return [
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "GKENetworkParamSet",
            "metadata": kubectl.metadata(name),
            "spec": {**parameters, "deviceMode": "NetDevice"},
        },
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "Network",
            "metadata": kubectl.metadata(name),
            "spec": {"type": "Device", "parametersRef": reference},
        },
    ]
