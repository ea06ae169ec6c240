"""The networks of the GPUs' own cards: in Google Cloud, and as objects in the cluster.

Only several nodes use them (``kube/fabrics.py`` says which): a network a card, with jumbo frames, closed to
all but itself; or one network for RDMA with a subnetwork a card.
https://cloud.google.com/kubernetes-engine/docs/how-to/gpu-bandwidth-gpudirect-tcpx
https://cloud.google.com/vpc/docs/rdma-network-profiles
"""

from __future__ import annotations

from typing import Any

from packtrain.gcp import kubectl
from packtrain.gcp.ask import ask
from packtrain.gcp.commands import MAKING, Command, Runner
from packtrain.gcp.looks import cluster_is_there
from packtrain.gcp.site import ZONE, Site
from packtrain.gcp.steps import LABEL, Seen, Step, Undo
from packtrain.kube.fabrics import Card, Fabric, Vpc

GROUP = "networking.gke.io"
#: In the order in which they are made: what is listed, by gcloud's words.
KINDS = ("networks", "subnets", "firewall-rules")
_DESCRIBED = f"--description={LABEL}"
_COMPUTE = ("gcloud", "compute")


def vpc_name(site: Site, vpc: Vpc) -> str:
    return f"{site.cluster}-{vpc.suffix}"


def subnetwork_name(site: Site, card: Card) -> str:
    return f"{site.cluster}-{card.subnetwork}"


def networks_step(site: Site, fabric: Fabric, zone: str | None) -> Step:
    zone = zone or (site.location if site.location != site.region else None)
    made = _commands(site, fabric, zone)

    def missing(runner: Runner) -> tuple[list[Command], list[str]]:
        """Commands that are left, and what is there that is not ours."""
        there = {kind: _listed(runner, site, kind) for kind in KINDS}
        left: list[Command] = []
        foreign: list[str] = []
        for (kind, name), command in made.items():
            found = there[kind].get(name)
            if found is None:
                left.append(command)
            elif found.get("description") != LABEL:
                foreign.append(f"{kind} {name}")
        return left, foreign

    def look(runner: Runner, _: bool) -> Seen:
        left, foreign = missing(runner)
        if any(ZONE in command.values for command in left):
            return Seen(
                "yours",
                "are not there, and are bound to the nodes' zone, which nothing names",
                f"--zone names it, such as {site.region}-b; packtrain cloud check says which have one",
                blocks=True,
                ours=not foreign,
            )
        if left:
            said = "are not there" if len(left) == len(made) else f"{len(left)} commands are left"
            return Seen("make", said, remaining=tuple(left), ours=not foreign)
        return Seen("there", f"{len(fabric.cards)} networks", ours=not foreign)

    def undo(runner: Runner, _: Seen) -> Undo:
        commands = []
        for kind in reversed(KINDS):
            listed = _listed(runner, site, kind)
            commands += [
                _delete(site, kind, name)
                for of, name in made
                if of == kind and (found := listed.get(name)) and found.get("description") == LABEL
            ]
        if commands:
            return Undo("remove", "made by packtrain", tuple(commands))
        return Undo("gone", "are not there, or were not made by packtrain")

    return Step(
        "networks",
        f"{len(fabric.cards)} networks for the GPUs' network cards",
        f"{fabric.name} between {site.nodes} nodes: without them {fabric.without}",
        look,
        tuple(made.values()),
        undo,
        MAKING,
    )


def _commands(site: Site, fabric: Fabric, zone: str | None) -> dict[tuple[str, str], Command]:
    """Kind and name -> what makes it; a network, then its subnetworks, then its firewall rule."""
    made: dict[tuple[str, str], Command] = {}
    spans = {card: f"192.168.{index}.0/24" for index, card in enumerate(fabric.cards, start=1)}
    for vpc in fabric.vpcs:
        network, cards = vpc_name(site, vpc), [card for card in fabric.cards if card.vpc == vpc]
        profile = (f"--network-profile={zone or f'${ZONE}'}-vpc-roce",) if vpc.roce else ()
        made["networks", network] = Command(
            (*_COMPUTE, "networks", "create", network, site.in_project, "--subnet-mode=custom",
             f"--mtu={vpc.mtu}", *profile, _DESCRIBED),
            values=(ZONE,) if vpc.roce and zone is None else (),
        )  # fmt: skip
        for card in cards:
            made["subnets", subnetwork_name(site, card)] = Command(
                (*_COMPUTE, "networks", "subnets", "create", subnetwork_name(site, card), site.in_project,
                 f"--network={network}", f"--region={site.region}", f"--range={spans[card]}", _DESCRIBED)
            )  # fmt: skip
        if not vpc.roce:
            sources = ",".join(spans[card] for card in cards)
            made["firewall-rules", network] = Command(
                (*_COMPUTE, "firewall-rules", "create", network, site.in_project, f"--network={network}",
                 "--action=ALLOW", "--rules=tcp:0-65535,udp:0-65535,icmp", f"--source-ranges={sources}",
                 _DESCRIBED)
            )  # fmt: skip
    return made


def _listed(runner: Runner, site: Site, kind: str) -> dict[str, dict[str, Any]]:
    words = ("networks", "subnets") if kind == "subnets" else (kind,)
    where = (f"--regions={site.region}",) if kind == "subnets" else ()
    argv = (*_COMPUTE, *words, "list", site.in_project, *where, "--format=json(name,description)")
    return {each["name"]: each for each in ask(runner, Command(argv)) or []}


def _delete(site: Site, kind: str, name: str) -> Command:
    words = ("networks", "subnets") if kind == "subnets" else (kind,)
    where = (f"--region={site.region}",) if kind == "subnets" else ()
    return Command((*_COMPUTE, *words, "delete", name, site.in_project, *where, "--quiet"))


def network_objects_step(site: Site, fabric: Fabric) -> Step:
    cards = {card.network: card for card in fabric.cards}
    objects = [each for card in fabric.cards for each in _objects(site, card)]

    def look(runner: Runner, _: bool) -> Seen:
        if not cluster_is_there(runner, site):
            return Seen("later", "when the cluster is there")
        there = _there(runner, "gkenetworkparamsets", cards)
        for name, found in there.items():
            vpc = found.get("spec", {}).get("vpc")
            if vpc not in {None, vpc_name(site, cards[name].vpc)}:
                return Seen(
                    "differs", f"{name} is of the network {vpc}",
                    "the pods use the networks by these names: that they are there is enough",
                )  # fmt: skip
        if len(there) < len(cards):
            said = "are not there" if not there else f"{len(there)} of {len(cards)} are there"
            return Seen("make", said)
        ours = all(map(kubectl.is_ours, there.values()))
        return Seen("there", _span(cards), ours=ours)

    def undo(runner: Runner, seen: Seen) -> Undo:
        if seen.state == "later":
            return Undo("gone", "is not there")
        commands = tuple(
            kubectl.delete(f"{kind}.{GROUP}", name)
            for kind in ("networks", "gkenetworkparamsets")
            for name, found in _there(runner, kind, cards).items()
            if kubectl.is_ours(found)
        )
        if commands:
            return Undo("remove", "made by packtrain", commands)
        return Undo("gone", "are not there, or were not made by packtrain")

    return Step(
        "network-objects",
        f"networks {_span(cards)} in the cluster",
        "what the pods' annotations name",
        look,
        (kubectl.apply(*objects),),
        undo,
    )


def _span(cards: dict[str, Card]) -> str:
    """The names, from the first to the last: ``vpc1 to vpc8``, ``gvnic-1, rdma-0 to rdma-7``."""
    attached = [name for name, card in cards.items() if card.interface]
    others = [name for name, card in cards.items() if not card.interface]
    return ", ".join([*others, f"{attached[0]} to {attached[-1]}"])


def _there(runner: Runner, kind: str, cards: dict[str, Card]) -> dict[str, dict[str, Any]]:
    """Those of the cards' objects that are in the cluster, by name."""
    argv = ("kubectl", "get", f"{kind}.{GROUP}", "--output=json")
    found = ask(runner, Command(argv)) or {}
    named = {each["metadata"]["name"]: each for each in found.get("items", ())}
    return {name: named[name] for name in cards if name in named}


def _objects(site: Site, card: Card) -> list[dict[str, Any]]:
    parameters = {"vpc": vpc_name(site, card.vpc), "vpcSubnet": subnetwork_name(site, card)}
    reference = {"group": GROUP, "kind": "GKENetworkParamSet", "name": card.network}
    return [
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "GKENetworkParamSet",
            "metadata": kubectl.metadata(card.network),
            "spec": {**parameters, "deviceMode": card.mode},
        },
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "Network",
            "metadata": kubectl.metadata(card.network),
            "spec": {"type": "Device", "parametersRef": reference},
        },
    ]
