"""Rules on a pod's rights: on the node, in the cluster, and in the cloud; and on which image it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.workloads import DAEMON_IMAGE, Container, Pod

_ACCOUNT = re.compile(r"^[a-z0-9-]+@[a-z0-9.-]+\.iam\.gserviceaccount\.com$")
_HELD_BACK = re.compile(r"@sha256:[0-9a-f]{64}$")
#: Pods that belong to the node have to have its rights.
_SYSTEM = ("kube-system", "gke-managed-system", "gmp-system")


def _of_the_system(pod: Pod) -> bool:
    return pod.document.kind == "DaemonSet" or pod.document.root.at("metadata", "namespace").text in _SYSTEM


@rule(
    Pod,
    "PT711",
    "warning",
    "A pod on the node's network",
    source=sources.WORKLOAD_IDENTITY_CONCEPT,
    fix="Set hostNetwork: false; where TCPXO works only with it, check that the bucket still answers.",
)
def host_network(pod: Pod) -> Iterator[Problem]:
    account = pod.spec["serviceAccountName"].text
    concerned = (pod.gpus or account) and not _of_the_system(pod)
    if pod.spec["hostNetwork"].is_true and concerned:
        loses = f"loses the identity of {account}" if account else "has the node's identity"
        yield (
            pod.spec["hostNetwork"],
            f"with hostNetwork the pod {loses} in Workload Identity, and its ports are the node's",
        )


@rule(
    Pod,
    "PT712",
    "warning",
    "A privileged container",
    source=sources.POD_SECURITY,
    fix="GPUs need no privilege; GPUDirect-TCPXO needs two capabilities and a device annotation.",
)
def privileged(pod: Pod) -> Iterator[Problem]:
    for container in pod.containers if not _of_the_system(pod) else ():
        flag = container.node.at("securityContext", "privileged")
        if flag.is_true and pod.gpus:
            yield (
                flag,
                f"container {container.name} is privileged: it owns the node, with all that runs there",
            )


@rule(
    Pod,
    "PT713",
    "info",
    "A training that holds a token of the Kubernetes API",
    source=sources.SERVICE_ACCOUNTS,
    fix="Set automountServiceAccountToken: false; the metadata server gives the identity without it.",
)
def api_token(pod: Pod) -> Iterator[Problem]:
    flag = pod.spec["automountServiceAccountToken"]
    if pod.document.kind in ("Job", "JobSet", "Pod") and pod.gpus and flag.value is not False:
        yield flag, "the pod has a token of the Kubernetes API, which training does not need"


@rule(
    Pod,
    "PT714",
    "info",
    "A container that may run as root",
    source=sources.POD_SECURITY,
    fix="Set runAsNonRoot: true and a runAsUser; GPUDirect on several nodes is the exception.",
)
def root(pod: Pod) -> Iterator[Problem]:
    if pod.document.kind not in ("Job", "JobSet", "Pod") or not pod.gpus or pod.daemon is not None:
        return
    if pod.fabric is not None:  # the network cards' devices are root's
        return
    general = pod.spec.at("securityContext", "runAsNonRoot")
    for container in pod.workers:
        own = container.node.at("securityContext", "runAsNonRoot")
        if not (own.is_true or (general.is_true and own.value is not False)):
            yield container.node["securityContext"], f"container {container.name} may run as root"


@rule(
    Pod,
    "PT715",
    "warning",
    "An image that can change under its name",
    source=sources.IMAGES,
    fix="Name a version, or better the digest (image@sha256:…).",
)
def moving_image(pod: Pod) -> Iterator[Problem]:
    for container in pod.containers:
        if container.image and _moves(container):
            yield (
                container.node["image"],
                f"container {container.name} runs {container.image}, which may be another tomorrow",
            )


def _moves(container: Container) -> bool:
    if _HELD_BACK.search(container.image) or DAEMON_IMAGE.search(container.image):
        return False
    if re.search(r"[<>${}]|\s", container.image):  # a place to fill in
        return False
    name = container.image.partition("@")[0].rpartition("/")[2]
    return name.endswith(":latest") or ":" not in name


@rule(
    Document,
    "PT716",
    "error",
    "A service account that names no IAM account",
    source=sources.WORKLOAD_IDENTITY,
    fix="Write NAME@PROJECT.iam.gserviceaccount.com; with direct federation no annotation at all.",
)
def account_annotation(document: Document) -> Iterator[Problem]:
    key = "iam.gke.io/gcp-service-account"
    annotation = document.root.at("metadata", "annotations", key)
    is_account = _ACCOUNT.match(annotation.text) or _to_fill_in(annotation.text)
    if document.kind == "ServiceAccount" and annotation.present and not is_account:
        yield (
            annotation,
            f"{annotation.text or annotation.value} is no e-mail address of an IAM service account",
        )


@rule(
    Document,
    "PT717",
    "error",
    "Workload Identity's annotation where nothing reads it",
    source=sources.WORKLOAD_IDENTITY,
    fix="Put the annotation on the Kubernetes ServiceAccount, and name that in serviceAccountName.",
)
def misplaced_account(document: Document) -> Iterator[Problem]:
    key = "iam.gke.io/gcp-service-account"
    if document.is_object and document.kind != "ServiceAccount":
        for node in document.root.walk():
            if node.path[-2:] == ("annotations", key):
                yield node, f"{key} on a {document.kind} gives no rights"


def _to_fill_in(text: str) -> bool:
    return bool(re.search(r"[<>${}\[\]]|[A-Z]{3}", text))


@rule(
    Document,
    "PT718",
    "info",
    "A driver installer where GKE installs the driver",
    source=sources.GPUS,
    fix="Make the pool with gpu-driver-version=LATEST (or DEFAULT) and leave the DaemonSet out.",
)
def driver_installer(document: Document) -> Iterator[Problem]:
    if document.kind == "DaemonSet" and document.name.startswith("nvidia-driver-installer"):
        yield document.root["metadata"], "GKE installs the driver itself when the pool says which"


RULES = (
    host_network,
    privileged,
    api_token,
    root,
    moving_image,
    account_annotation,
    misplaced_account,
    driver_installer,
)
