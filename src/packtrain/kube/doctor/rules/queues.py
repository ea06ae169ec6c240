"""Rules on Kueue and Dynamic Workload Scheduler: where they read a label or annotation, and where not."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.tree import Node
from packtrain.kube.doctor.workloads import QUEUE, Job, Pod
from packtrain.kube.limits import LONGEST_FLEXIBLE
from packtrain.kube.manifests import MAX_EXEC_TIME, MAX_RUN_DURATION

PROVISIONING_CLASS = "queued-provisioning.gke.io"
CONTROLLER = "kueue.x-k8s.io/provisioning-request"
#: Kinds whose own labels Kueue reads; of a Pod alone it reads the Pod's.
_QUEUED_KINDS = ("Job", "JobSet", "PyTorchJob", "TFJob", "MPIJob", "RayJob", "RayCluster", "TrainJob")


@rule(
    Pod,
    "PT801",
    "error",
    "The time of a provisioning request stands where nothing reads it",
    source=sources.KUEUE_PROVISIONING,
    fix="Move provreq.kueue.x-k8s.io/maxRunDurationSeconds to the annotations of the Job or JobSet itself.",
)
def duration_place(pod: Pod) -> Iterator[Problem]:
    annotation = pod.annotations[MAX_RUN_DURATION]
    top = pod.document.root.at("metadata", "annotations", MAX_RUN_DURATION)
    if pod.document.kind != "Pod" and annotation.present and not top.present:
        yield (
            annotation,
            "on the pod template it is ignored: the nodes are asked for without an end, or for seven days",
        )


@rule(
    Document,
    "PT802",
    "error",
    "The time of a provisioning request is none",
    source=sources.FLEX_START,
    fix=f"Write whole seconds as a text, {LONGEST_FLEXIBLE} (seven days) at most.",
)
def duration_value(document: Document) -> Iterator[Problem]:
    annotation = document.root.at("metadata", "annotations", MAX_RUN_DURATION)
    if not annotation.present:
        return
    seconds = annotation.integer
    if seconds is None or seconds <= 0:
        yield annotation, f"{annotation.value} is no number of seconds"
    elif seconds > LONGEST_FLEXIBLE:
        yield annotation, f"{seconds} s is longer than the seven days that a node can be had for"


@rule(
    Document,
    "PT803",
    "warning",
    "Kueue's label as an annotation, or the other way round",
    source=sources.KUEUE_LABELS,
    fix=f"{QUEUE} and {MAX_EXEC_TIME} are labels, {MAX_RUN_DURATION} is an annotation.",
)
def label_or_annotation(document: Document) -> Iterator[Problem]:
    metadata = document.root["metadata"]
    for key in (QUEUE, MAX_EXEC_TIME):
        found = metadata["annotations"][key]
        if found.present and not metadata["labels"][key].present:
            old = " (the annotation is deprecated)" if key == QUEUE else ""
            yield found, f"{key} is read as a label{old}"
    found = metadata["labels"][MAX_RUN_DURATION]
    if found.present:
        yield found, f"{MAX_RUN_DURATION} is read as an annotation"


@rule(
    Document,
    "PT804",
    "error",
    "The longest run of a queued job is none",
    source=sources.KUEUE_LABELS,
    fix="Write whole seconds, as a text.",
)
def longest_run(document: Document) -> Iterator[Problem]:
    label = document.root.at("metadata", "labels", MAX_EXEC_TIME)
    if label.present and (label.integer is None or label.integer <= 0):
        yield label, f"{MAX_EXEC_TIME} is {label.value!r}, no number of seconds"


@rule(
    Pod,
    "PT805",
    "error",
    "The queue's name stands where nothing reads it",
    source=sources.KUEUE,
    fix="Move the label kueue.x-k8s.io/queue-name to the Job or JobSet itself.",
)
def queue_place(pod: Pod) -> Iterator[Problem]:
    label = pod.node.at("metadata", "labels", QUEUE)
    top = pod.document.root.at("metadata", "labels", QUEUE)
    if pod.document.kind in _QUEUED_KINDS and label.present and not top.present:
        yield label, "on the pod template it is ignored: the job starts without waiting for its quota"


@rule(
    Document,
    "PT806",
    "warning",
    "A provisioning request that nobody makes",
    source=sources.KUEUE_PROVISIONING,
    fix="Add the label kueue.x-k8s.io/queue-name, or make the ProvisioningRequest yourself.",
)
def no_queue(document: Document) -> Iterator[Problem]:
    metadata = document.root["metadata"]
    annotation = metadata["annotations"][MAX_RUN_DURATION]
    if document.kind in _QUEUED_KINDS and annotation.present and not metadata["labels"][QUEUE].present:
        yield (
            annotation,
            "only Kueue reads this annotation, and the object is in no queue",
        )


@rule(
    Document,
    "PT807",
    "error",
    "A provisioning class that GKE does not have",
    source=sources.KUEUE_PROVISIONING,
    fix=f"Write provisioningClassName: {PROVISIONING_CLASS} and controllerName: {CONTROLLER}.",
)
def provisioning_class(document: Document) -> Iterator[Problem]:
    spec = document.root["spec"]
    if document.kind == "ProvisioningRequestConfig":
        yield from _misspelt(spec["provisioningClassName"], PROVISIONING_CLASS)
    elif document.kind == "AdmissionCheck":
        yield from _misspelt(spec["controllerName"], CONTROLLER)


def _misspelt(node: Node, right: str) -> Iterator[Problem]:
    if node.text != right and difflib.get_close_matches(node.text, [right], n=1, cutoff=0.8):
        yield node, f"{node.text} is none that GKE has; did you mean {right}?"


@rule(
    Job,
    "PT808",
    "info",
    "A job that may wait for ever",
    source=sources.KUEUE_WAITING,
    fix="Limit the wait yourself, or set activeDeadlineSeconds: it counts the time that a pod is Pending.",
)
def waits_for_ever(job: Job) -> Iterator[Problem]:
    scarce = job.pod.capacity in ("spot", "flex-start", "queued")
    deadline = job.node["activeDeadlineSeconds"].present or job.pod.spec["activeDeadlineSeconds"].present
    # Of our own, `submit` is what limits the wait.
    watched = job.document.root.at("metadata", "labels", "app.kubernetes.io/managed-by").text == "packtrain"
    if scarce and job.pod.gpus and not deadline and not watched:
        yield job.node, "nothing ends the wait for capacity that may never come"


@rule(
    Job,
    "PT809",
    "warning",
    "A deadline that a queue does not count as the job does",
    source=sources.JOB,
    fix=f"Use the label {MAX_EXEC_TIME} for the run's own time, and a longer deadline as a back-stop.",
)
def deadline_in_queue(job: Job) -> Iterator[Problem]:
    """The one counts only running, the other waiting for nodes too, and from the start when resumed."""
    longest = job.document.root.at("metadata", "labels", MAX_EXEC_TIME).integer
    deadline = job.node["activeDeadlineSeconds"]
    if longest is not None and deadline.integer is not None and deadline.integer <= longest:
        yield (
            deadline,
            f"{deadline.integer} s, waiting included, end before the {longest} s that the run may take",
        )


RULES = (
    duration_place,
    duration_value,
    label_or_annotation,
    longest_run,
    queue_place,
    no_queue,
    provisioning_class,
    waits_for_ever,
    deadline_in_queue,
)
