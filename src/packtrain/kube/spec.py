"""A pod as typed objects, which passes change and one place turns into Kubernetes' own form.

Only what our manifests use is here. Every object is frozen: a pass returns another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Variable:
    """An environment variable: a value, a field of the pod, or a key of a Secret that may be absent."""

    name: str
    value: str | None = None
    field_path: str | None = None
    secret: tuple[str, str] | None = None

    def manifest(self) -> Manifest:
        if self.value is not None:
            return {"name": self.name, "value": self.value}
        if self.field_path is not None:
            return {"name": self.name, "valueFrom": {"fieldRef": {"fieldPath": self.field_path}}}
        assert self.secret is not None
        name, key = self.secret
        reference = {"name": name, "key": key, "optional": True}
        return {"name": self.name, "valueFrom": {"secretKeyRef": reference}}


@dataclass(frozen=True)
class Volume:
    name: str
    source: Manifest

    def manifest(self) -> Manifest:
        return {"name": self.name, **self.source}


def config_map(name: str, config_map_name: str) -> Volume:
    return Volume(name, {"configMap": {"name": config_map_name}})


def empty_dir(name: str) -> Volume:
    """On the node's disk, or its local SSDs where the pool has them for ephemeral storage."""
    return Volume(name, {"emptyDir": {}})


def memory_dir(name: str, limit: str) -> Volume:
    return Volume(name, {"emptyDir": {"medium": "Memory", "sizeLimit": limit}})


def host_path(name: str, path: str) -> Volume:
    return Volume(name, {"hostPath": {"path": path}})


@dataclass(frozen=True)
class Mount:
    volume: str
    path: str
    read_only: bool = False

    def manifest(self) -> Manifest:
        mount: Manifest = {"name": self.volume, "mountPath": self.path}
        return mount | {"readOnly": True} if self.read_only else mount


@dataclass(frozen=True)
class Security:
    """What a container may do. As it stands: what the "restricted" standard allows."""

    root: bool = False
    read_only_root: bool = True
    drop: tuple[str, ...] = ("ALL",)
    add: tuple[str, ...] = ()

    def manifest(self) -> Manifest:
        capabilities = {"drop": list(self.drop)} if self.drop else {}
        capabilities |= {"add": list(self.add)} if self.add else {}
        context: Manifest = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": self.read_only_root,
            "capabilities": capabilities,
        }
        return context | {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0} if self.root else context


@dataclass(frozen=True)
class Container:
    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    security: Security = Security()
    probes: Mapping[str, Manifest] = field(default_factory=dict)
    """``startupProbe``, ``readinessProbe``, ``livenessProbe``."""
    sidecar: bool = False
    """Of an init container: runs beside the others, and ends with them (Kubernetes 1.29)."""

    def manifest(self) -> Manifest:
        found: Manifest = {"name": self.name, "image": self.image}
        found |= {"command": list(self.command)} if self.command else {}
        found |= {"args": list(self.args)} if self.args else {}
        found |= {"restartPolicy": "Always"} if self.sidecar else {}
        found |= {"env": [each.manifest() for each in self.env]} if self.env else {}
        if self.ports:
            found["ports"] = [{"name": name, "containerPort": port} for name, port in self.ports.items()]
        resources = {"requests": dict(self.requests)} | ({"limits": dict(self.limits)} if self.limits else {})
        found |= {"resources": resources} | dict(self.probes)
        found |= {"volumeMounts": [each.manifest() for each in self.mounts]} if self.mounts else {}
        return found | {"securityContext": self.security.manifest()}


@dataclass(frozen=True)
class Toleration:
    key: str
    value: str

    def manifest(self) -> Manifest:
        return {"key": self.key, "operator": "Equal", "value": self.value, "effect": "NoSchedule"}


@dataclass(frozen=True)
class Pod:
    service_account: str
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    avoid: tuple[str, ...] = ()
    """Labels of nodes that this pod must not run on, whatever their value."""
    tolerations: tuple[Toleration, ...] = ()
    grace_seconds: int = 30
    host_network: bool = False
    restarts: bool = False
    """False for a Job: its containers never restart in place."""

    def main(self, **changes: Any) -> Pod:
        """The pod with its first container changed."""
        first, *rest = self.containers
        return replace(self, containers=(replace(first, **changes), *rest))

    def template(self) -> Manifest:
        metadata: Manifest = {"labels": dict(self.labels)}
        metadata |= {"annotations": dict(self.annotations)} if self.annotations else {}
        return {"metadata": metadata, "spec": self._spec()}

    def _spec(self) -> Manifest:
        spec: Manifest = {} if self.restarts else {"restartPolicy": "Never"}
        spec |= {
            "serviceAccountName": self.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": self.grace_seconds,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if self.host_network else {}
        spec |= {"nodeSelector": dict(self.node_selector)} if self.node_selector else {}
        if self.avoid:
            spec["affinity"] = {"nodeAffinity": _without(self.avoid)}
        spec |= {"tolerations": [each.manifest() for each in self.tolerations]} if self.tolerations else {}
        if self.init_containers:
            spec["initContainers"] = [each.manifest() for each in self.init_containers]
        spec["containers"] = [each.manifest() for each in self.containers]
        return spec | {"volumes": [each.manifest() for each in self.volumes]}


def _without(labels: tuple[str, ...]) -> Manifest:
    expressions = [{"key": label, "operator": "DoesNotExist"} for label in labels]
    terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": terms}
