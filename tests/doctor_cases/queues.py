"""Cases of the rules on Kueue and Dynamic Workload Scheduler (PT8)."""

from __future__ import annotations

from typing import Any

from doctor_cases.kit import DROP, NODE_JOB, Case, job, jobset

DURATION = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"
QUEUE = "kueue.x-k8s.io/queue-name"
LONGEST = "kueue.x-k8s.io/max-exec-time-seconds"
TOP = ("metadata", "annotations")
LABELS = ("metadata", "labels")
INNER = (*NODE_JOB, "template", "metadata", "annotations", DURATION)
INNER_LABEL = (*NODE_JOB, "template", "metadata", "labels", QUEUE)
QUEUED: dict[str, Any] = {"capacity": "queued", "queue": "team-a"}
FOREIGN = ((*LABELS, "app.kubernetes.io/managed-by"), "Helm")


def kueue(kind: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": "a"}, "spec": spec}


CASES = (
    Case("PT801", jobset((INNER, "3600"), queue="team-a"), jobset((INNER, "3600"), **QUEUED)),
    Case("PT802", job(((*TOP, DURATION), "1h"), **QUEUED), job(((*TOP, DURATION), "3600"), **QUEUED)),
    Case("PT802", job(((*TOP, DURATION), "604801"), **QUEUED), job(((*TOP, DURATION), "604800"), **QUEUED)),
    Case(
        "PT803", job(((*TOP, QUEUE), "team-a")), job(((*TOP, QUEUE), "team-a"), ((*LABELS, QUEUE), "team-a"))
    ),
    Case("PT803", job(((*LABELS, DURATION), "3600"), **QUEUED), job(**QUEUED)),
    Case("PT804", job(((*LABELS, LONGEST), "1h")), job(((*LABELS, LONGEST), "3600"))),
    Case("PT805", jobset((INNER_LABEL, "team-a")), jobset((INNER_LABEL, "team-a"), queue="team-a")),
    Case("PT806", job(((*LABELS, QUEUE), DROP), **QUEUED), job(**QUEUED)),
    Case(
        "PT807",
        kueue("ProvisioningRequestConfig", provisioningClassName="queued-provisioning.gke.com"),
        kueue("ProvisioningRequestConfig", provisioningClassName="queued-provisioning.gke.io"),
    ),
    Case(
        "PT807",
        kueue("AdmissionCheck", controllerName="kueue.x-k8s.io/provisioning-requests"),
        kueue("AdmissionCheck", controllerName="kueue.x-k8s.io/multikueue"),
    ),
    Case("PT808", job(FOREIGN), job(FOREIGN, capacity="on-demand")),
    Case("PT808", job(FOREIGN), job(FOREIGN, (("spec", "activeDeadlineSeconds"), 86_400))),
    Case(
        "PT809",
        job(((*LABELS, LONGEST), "3600"), (("spec", "activeDeadlineSeconds"), 3600)),
        job(((*LABELS, LONGEST), "3600"), (("spec", "activeDeadlineSeconds"), 90_000)),
    ),
)
