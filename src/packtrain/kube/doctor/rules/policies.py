"""Rules on who may do what: policies as ``gcloud projects get-iam-policy --format=json`` prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.gcloud import Binding
from packtrain.kube.doctor.rule import Problem, rule

_POOL = (
    r"//iam\.googleapis\.com/projects/(?P<project>[^/]+)/locations/global"
    r"/workloadIdentityPools/(?P<pool>[^/]+)"
)
_KSA = re.compile(r"serviceAccount:[a-z0-9:.-]+\.svc\.id\.goog\[[a-z0-9-]+/[a-z0-9.-]+\]")


@rule(
    Binding,
    "PT951",
    "error",
    "A workload that may do nearly everything",
    source=sources.BASIC_ROLES,
    fix="Give the roles that are used instead: for training, roles/storage.objectUser on the bucket.",
)
def basic_role(binding: Binding) -> Iterator[Problem]:
    if binding.role in ("roles/editor", "roles/owner") and binding.is_workload:
        yield binding.where, f"{_short(binding.member)} has {binding.role}"


@rule(
    Binding,
    "PT952",
    "error",
    "All buckets of the project, for one that needs one bucket",
    source=sources.STORAGE_ROLES,
    fix="gcloud storage buckets add-iam-policy-binding gs://BUCKET --role=roles/storage.objectUser, and take "
    "the project's away.",
)
def project_storage(binding: Binding) -> Iterator[Problem]:
    roles = ("admin", "objectAdmin", "objectUser", "objectCreator")
    listed = binding.role in {f"roles/storage.{role}" for role in roles}
    if listed and binding.scope == "project" and binding.is_workload:
        yield binding.where, f"{_short(binding.member)} has {binding.role} on the whole project"


@rule(
    Binding,
    "PT953",
    "error",
    "Every pod of a cluster has the right",
    source=sources.WORKLOAD_IDENTITY_CONCEPT,
    fix="Name the one account: principal://…/subject/ns/NAMESPACE/sa/KSA.",
)
def whole_cluster(binding: Binding) -> Iterator[Problem]:
    if re.match(rf"principalSet:{_POOL}/(?:\*|kubernetes\.cluster/)", binding.member):
        which = "all clusters" if binding.member.endswith("/*") else "a cluster"
        yield binding.where, f"{binding.role} is for every pod of {which}"


@rule(
    Binding,
    "PT954",
    "error",
    "A principal that is nobody",
    source=sources.WORKLOAD_IDENTITY_CONCEPT,
    fix="principal://iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/"
    "PROJECT_ID.svc.id.goog/subject/ns/NAMESPACE/sa/KSA: the number in the path, the id in the pool.",
)
def principal(binding: Binding) -> Iterator[Problem]:
    found = re.match(rf"principal(?:Set)?:{_POOL}/(?P<rest>.*)", binding.member)
    if found is None or not (found["pool"].endswith(".svc.id.goog") or "/ns/" in binding.member):
        return
    if not found["project"].isdigit():
        yield binding.where, f"the path has the project's id {found['project']}, where its number has to be"
    elif not found["pool"].endswith(".svc.id.goog"):
        yield binding.where, f"the pool {found['pool']} is not PROJECT_ID.svc.id.goog"
    elif binding.member.startswith("principal:") and not re.fullmatch(
        r"subject/ns/[^/]+/sa/[^/]+", found["rest"]
    ):
        yield binding.where, "the subject is not ns/NAMESPACE/sa/KSA"


@rule(
    Binding,
    "PT955",
    "error",
    "Everybody has the right",
    source=sources.PUBLIC_BUCKETS,
    fix="Take it away, and enforce public access prevention on the bucket.",
)
def public(binding: Binding) -> Iterator[Problem]:
    if binding.member in ("allUsers", "allAuthenticatedUsers"):
        who = "everybody" if binding.member == "allUsers" else "everybody with a Google account"
        yield binding.where, f"{who} has {binding.role}"


@rule(
    Binding,
    "PT956",
    "error",
    "A Kubernetes account that cannot act as the IAM account",
    source=sources.WORKLOAD_IDENTITY,
    fix="serviceAccount:PROJECT_ID.svc.id.goog[NAMESPACE/KSA]",
)
def impersonation(binding: Binding) -> Iterator[Problem]:
    is_account = _KSA.fullmatch(binding.member) or binding.member.startswith("principal")
    if binding.role == "roles/iam.workloadIdentityUser" and not is_account:
        yield binding.where, f"{_short(binding.member)} is no Kubernetes service account"


@rule(
    Binding,
    "PT957",
    "error",
    "A workload that may act as every account of the project",
    source=sources.WORKLOAD_IDENTITY,
    fix="Give the role on the one IAM account: gcloud iam service-accounts add-iam-policy-binding ACCOUNT.",
)
def project_impersonation(binding: Binding) -> Iterator[Problem]:
    roles = ("workloadIdentityUser", "serviceAccountUser", "serviceAccountTokenCreator")
    listed = binding.role in {f"roles/iam.{role}" for role in roles}
    if listed and binding.scope == "project" and binding.is_workload:
        yield binding.where, f"{_short(binding.member)} has {binding.role} on the whole project"


def _short(member: str) -> str:
    return member if len(member) <= 80 else f"{member[:30]}…{member[-45:]}"


RULES = (
    basic_role,
    project_storage,
    whole_cluster,
    principal,
    public,
    impersonation,
    project_impersonation,
)
