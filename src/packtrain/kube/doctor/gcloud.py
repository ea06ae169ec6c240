"""Views of what gcloud prints as JSON or YAML: clusters, node pools, and policies of who may do what.

A policy may also stand in Config Connector's objects (IAMPolicy, IAMPolicyMember, IAMPartialPolicy).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.tree import Node
from packtrain.plan.machines import Machine, machines

Scope = Literal["project", "bucket", "account", "other"]


@dataclass(frozen=True)
class NodePool:
    document: Document
    node: Node
    cluster: Node | None
    """The cluster that was printed with it."""

    @property
    def config(self) -> Node:
        return self.node["config"]

    @property
    def machine(self) -> Machine | None:
        return machines().get(self.config["machineType"].text)

    @property
    def gpus(self) -> list[Node]:
        return list(self.config["accelerators"])

    @property
    def has_gpus(self) -> bool:
        return bool(self.gpus) or self.machine is not None

    @property
    def networks(self) -> Node:
        return self.node.at("networkConfig", "additionalNodeNetworkConfigs")

    @property
    def flex_start(self) -> bool:
        return self.config["flexStart"].is_true

    @property
    def queued(self) -> bool:
        return self.node.at("queuedProvisioning", "enabled").is_true

    @property
    def spot(self) -> bool:
        return self.config["spot"].is_true or self.config["preemptible"].is_true


@dataclass(frozen=True)
class Cluster:
    document: Document
    node: Node

    @property
    def pools(self) -> list[NodePool]:
        return [NodePool(self.document, pool, self.node) for pool in self.node["nodePools"]]


@dataclass(frozen=True)
class Binding:
    """One role for one member."""

    document: Document
    where: Node
    role: str
    member: str
    scope: Scope

    @property
    def is_google(self) -> bool:
        """An account of Google's own that a service works with."""
        domain = self.member.rpartition("@")[2]
        return self.member.startswith("serviceAccount:") and (
            domain in ("cloudservices.gserviceaccount.com", "cloudbuild.gserviceaccount.com")
            or bool(re.match(r"(gcp-sa-|.*\bsystem\b|container-engine-|compute-system)", domain))
            or domain.endswith(("-robot.iam.gserviceaccount.com", ".google.com"))
        )

    @property
    def is_workload(self) -> bool:
        return (
            self.member.startswith(("serviceAccount:", "principal:", "principalSet:")) and not self.is_google
        )


def clusters_of(document: Document) -> Iterator[Cluster]:
    root = document.root
    if not document.is_object and (
        "currentMasterVersion" in root or ("nodePools" in root and isinstance(root["nodePools"].value, list))
    ):
        yield Cluster(document, root)


def pools_of(document: Document) -> Iterator[NodePool]:
    root = document.root
    if not document.is_object and root.at("config", "machineType").text:
        yield NodePool(document, root, None)
    for cluster in clusters_of(document):
        yield from (pool for pool in cluster.pools if pool.config["machineType"].text)


def bindings_of(document: Document) -> Iterator[Binding]:
    root = document.root
    if document.is_object:
        yield from _config_connector(document)
        return
    scope = _scope(root)
    for binding in root["bindings"]:
        role = binding["role"]
        for member in binding["members"]:
            if role.text and member.text:
                yield Binding(document, member, role.text, member.text, scope)


def _scope(root: Node) -> Scope:
    """Whose policy it is. Nothing in a project's policy says so: it is one that nothing else explains."""
    roles = {binding["role"].text for binding in root["bindings"]}
    if root["kind"].text == "storage#policy" or any(".legacy" in role for role in roles):
        return "bucket"
    if "buckets/" in root["resourceId"].text:
        return "bucket"
    if roles and all(role.startswith("roles/iam.workloadIdentity") for role in roles):
        return "account"
    if roles and all(role.startswith("roles/artifactregistry.") for role in roles):
        return "other"
    return "project"


def _config_connector(document: Document) -> Iterator[Binding]:
    if not document.root["apiVersion"].text.startswith("iam.cnrm.cloud.google.com/"):
        return
    spec = document.root["spec"]
    kinds: dict[str, Scope] = {
        "Project": "project",
        "StorageBucket": "bucket",
        "IAMServiceAccount": "account",
    }
    scope = kinds.get(spec.at("resourceRef", "kind").text, "other")
    if spec["role"].text and spec["member"].text:
        yield Binding(document, spec["member"], spec["role"].text, spec["member"].text, scope)
    for binding in spec["bindings"]:
        for member in binding["members"]:
            named = member if member.text else member["member"]
            if binding["role"].text and named.text:
                yield Binding(document, named, binding["role"].text, named.text, scope)
