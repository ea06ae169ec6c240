"""Which resources the stand-in Kubernetes API server has, and what its discovery documents say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
JOBSET, KUEUE, GKE = "jobset.x-k8s.io", "kueue.x-k8s.io", "networking.gke.io"


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> tuple[str, str]:
        """What the versions of a resource have in common: they show the same objects."""
        return self.group, self.plural

    @property
    def full_name(self) -> str:
        """As the server's sentences call it, such as ``jobs.batch``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


RESOURCES = (
    Resource("", "v1", "namespaces", "Namespace", False, ("ns",)),
    Resource("", "v1", "nodes", "Node", False, ("no",)),
    Resource("", "v1", "pods", "Pod", True, ("po",)),
    Resource("", "v1", "services", "Service", True, ("svc",)),
    Resource("", "v1", "serviceaccounts", "ServiceAccount", True, ("sa",)),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "configmaps", "ConfigMap", True, ("cm",)),
    Resource("", "v1", "events", "Event", True, ("ev",)),
    Resource("", "v1", "resourcequotas", "ResourceQuota", True, ("quota",)),
    Resource("apps", "v1", "deployments", "Deployment", True, ("deploy",)),
    Resource("apps", "v1", "daemonsets", "DaemonSet", True, ("ds",)),
    Resource("batch", "v1", "jobs", "Job"),
    Resource(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, ("crd",)
    ),
    Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Resource(JOBSET, "v1alpha2", "jobsets", "JobSet"),
    *(
        Resource(KUEUE, version, plural, kind, namespaced)
        for version in ("v1beta2", "v1beta1")
        for plural, kind, namespaced in (
            ("workloads", "Workload", True),
            ("localqueues", "LocalQueue", True),
            ("clusterqueues", "ClusterQueue", False),
            ("resourceflavors", "ResourceFlavor", False),
            ("admissionchecks", "AdmissionCheck", False),
            ("provisioningrequestconfigs", "ProvisioningRequestConfig", False),
        )
    ),
    Resource(GKE, "v1", "networks", "Network", False),
    Resource(GKE, "v1", "gkenetworkparamsets", "GKENetworkParamSet", False),
)
#: Groups that are custom resources: not every cluster has them.
CUSTOM = (JOBSET, KUEUE, GKE)


def served(installed: set[str]) -> tuple[Resource, ...]:
    return tuple(each for each in RESOURCES if each.group not in CUSTOM or each.group in installed)


def versions(resources: tuple[Resource, ...], group: str) -> list[str]:
    return list(dict.fromkeys(each.version for each in resources if each.group == group))


def api_group_list(resources: tuple[Resource, ...]) -> dict[str, Any]:
    groups = []
    for group in dict.fromkeys(each.group for each in resources if each.group):
        names = [
            {"groupVersion": f"{group}/{version}", "version": version}
            for version in versions(resources, group)
        ]
        groups.append({"name": group, "versions": names, "preferredVersion": names[0]})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_resource_list(resources: tuple[Resource, ...], group: str, version: str) -> dict[str, Any] | None:
    mine = [each for each in resources if (each.group, each.version) == (group, version)]
    if not mine:
        return None
    entries: list[dict[str, Any]] = []
    for each in mine:
        entry = {
            "name": each.plural,
            "singularName": each.kind.lower(),
            "namespaced": each.namespaced,
            "kind": each.kind,
            "verbs": VERBS,
            "shortNames": list(each.short),
        }
        entries += [entry, entry | {"name": f"{each.plural}/status", "verbs": ["get", "patch", "update"]}]
        if each.plural == "pods":
            entries.append(entry | {"name": "pods/log", "verbs": ["get"]})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": entries,
    }


def openapi_v3(resources: tuple[Resource, ...], prefix: str) -> dict[str, Any]:
    """As much as kubectl reads: the server itself checks fields (the parameter ``fieldValidation``)."""
    paths: dict[str, Any] = {}
    for each in resources:
        if prefix != (f"apis/{each.api_version}" if each.group else "api/v1"):
            continue
        kind = {"group": each.group, "version": each.version, "kind": each.kind}
        patch = {
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": kind,
        }
        inside = "namespaces/{namespace}/" if each.namespaced else ""
        paths[f"/{prefix}/{inside}{each.plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "v1"}, "paths": paths}


def crd(group: str, plural: str, kind: str, names: list[str], version: str) -> dict[str, Any]:
    """The definition of a custom resource, as its release installs it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "labels": {"app.kubernetes.io/version": version} if version else {},
        },
        "spec": {
            "group": group,
            "names": {"plural": plural, "kind": kind},
            "scope": "Namespaced",
            "versions": [{"name": name, "served": True, "storage": at == 0} for at, name in enumerate(names)],
        },
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    }
