"""Which permission each part of the setup needs, and the smallest usual role that has it.

https://cloud.google.com/iam/docs/permissions-reference
"""

from __future__ import annotations

import re

#: A permission in a message: SERVICE.RESOURCE.VERB. Not the command: (gcloud.SERVICE.RESOURCE.VERB).
PERMISSION = re.compile(
    r"(?<![\w.])(?:resourcemanager|serviceusage|storage|iam|container|artifactregistry|compute|cloudbuild)"
    r"\.[a-zA-Z]+\.[a-zA-Z]+\b"
)

#: Step of the setup -> the permissions on the project with which its commands go through.
NEEDED: dict[str, tuple[str, ...]] = {
    "project": ("resourcemanager.projects.get",),
    "apis": ("serviceusage.services.list", "serviceusage.services.enable"),
    "bucket": ("storage.buckets.create", "storage.buckets.get", "storage.buckets.update"),
    "bucket-access": ("storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy"),
    "cluster": ("container.clusters.get",),
    "create-cluster": ("container.clusters.create", "iam.serviceAccounts.actAs"),
    "create-pool": ("container.clusters.update", "iam.serviceAccounts.actAs"),
    "networks": (
        "compute.networks.create",
        "compute.subnetworks.create",
        "compute.firewalls.create",
        "compute.networks.updatePolicy",
    ),
    "namespace": ("container.namespaces.create",),
    "service-account": ("container.serviceAccounts.create",),
    "secret": ("container.secrets.create",),
    "identity": (
        "iam.serviceAccounts.create",
        "iam.serviceAccounts.getIamPolicy",
        "iam.serviceAccounts.setIamPolicy",
    ),
    "repository": ("artifactregistry.repositories.create", "artifactregistry.repositories.get"),
    "image-access": (
        "artifactregistry.repositories.getIamPolicy",
        "artifactregistry.repositories.setIamPolicy",
    ),
    "image-build": ("cloudbuild.builds.create", "iam.serviceAccounts.actAs", "storage.objects.create"),
}

#: The first that fits: a permission's beginning -> the role.
_ROLES = (
    ("resourcemanager.projects.get", "roles/browser"),
    ("serviceusage.", "roles/serviceusage.serviceUsageAdmin"),
    ("storage.objects.", "roles/storage.objectUser"),
    ("storage.", "roles/storage.admin"),
    ("iam.serviceAccounts.actAs", "roles/iam.serviceAccountUser"),
    ("iam.", "roles/iam.serviceAccountAdmin"),
    ("container.clusters.", "roles/container.admin"),
    ("container.operations.", "roles/container.admin"),
    ("container.", "roles/container.developer"),
    ("artifactregistry.", "roles/artifactregistry.admin"),
    ("compute.firewalls.", "roles/compute.securityAdmin"),
    ("compute.networks.updatePolicy", "roles/compute.securityAdmin"),
    ("compute.regions.", "roles/compute.viewer"),
    ("compute.machineTypes.", "roles/compute.viewer"),
    ("compute.", "roles/compute.networkAdmin"),
    ("cloudbuild.", "roles/cloudbuild.builds.editor"),
)


def role_for(permission: str) -> str | None:
    return next((role for beginning, role in _ROLES if permission.startswith(beginning)), None)
