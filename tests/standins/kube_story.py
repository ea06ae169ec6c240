"""What becomes of a Job in the stand-in cluster: a test plays controller, scheduler and kubelet by hand.

def story(cluster, job):
    pod = cluster.pod(job)
    pod.event("FailedScheduling", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    pod.run("gpu-node-1")
    pod.log("step 1")
    pod.evict()                       # DisruptionTarget
    pod = cluster.pod(job)            # the replacement
    pod.run("gpu-node-2"); pod.exit(0)
    cluster.complete(job)
"""

from __future__ import annotations

import itertools
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from standins.kube_store import Object, now

if TYPE_CHECKING:
    from standins.kube_api import KubeApi

GPU_LABELS = {
    "cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb",
    "cloud.google.com/gke-nodepool": "gpu",
}
_count = itertools.count(1)


class Cluster:
    def __init__(self, api: KubeApi) -> None:
        self.api = api

    def pod(self, job: Object, index: int = 0, *, container: str | None = None) -> Pod:
        """A pod of a Job (or of the one replicated Job of a JobSet), Pending."""
        spec, name, labels, annotations = _template(job)
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": job["metadata"]["name"]}
        owner |= {"uid": job["metadata"]["uid"], "controller": True}
        labels |= {"batch.kubernetes.io/job-completion-index": str(index)}
        annotations |= {"batch.kubernetes.io/job-completion-index": str(index)}
        if container is not None:
            spec = {"containers": [{"name": container}]}
        made = self.api.create(
            "Pod",
            f"{name}-{index}-{uuid.uuid4().hex[:5]}",
            namespace=job["metadata"].get("namespace", "default"),
            labels=labels,
            metadata={"ownerReferences": [owner], "annotations": annotations},
            spec=spec,
        )
        return Pod(self, made)

    def adopt(self, pod: Object) -> Pod:
        """For a story about a bare pod."""
        return Pod(self, pod)

    def node(
        self, name: str, *, spot: bool = True, ready: bool = True, machine: str = "a3-megagpu-8g"
    ) -> None:
        if name not in self.api.names("Node"):
            labels = GPU_LABELS | {"node.kubernetes.io/instance-type": machine}
            labels |= {"cloud.google.com/gke-spot": "true"} if spot else {}
            labels = {} if name.startswith("system") else labels
            self.api.create("Node", name, labels=labels)
        self.api.status(
            "Node", name, conditions=[{"type": "Ready", "status": "True" if ready else "Unknown"}]
        )

    def event(
        self, about: Object, reason: str, message: str, kind: str = "Warning", source: str = ""
    ) -> None:
        metadata, namespace = about["metadata"], about["metadata"].get("namespace", "default")
        involved = {
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": namespace,
            "uid": metadata["uid"],
        }
        self.api.create(
            "Event",
            f"{metadata['name']}.{uuid.uuid4().hex[:12]}",
            namespace=namespace,
            involvedObject=involved,
            reason=reason,
            message=message,
            type=kind,
            source={"component": source},
            firstTimestamp=now(),
            lastTimestamp=now(),
            count=1,
        )

    def complete(self, job: Object) -> None:
        self._finish(job, "Complete" if job["kind"] == "Job" else "Completed", "CompletionsReached", "")

    def fail(self, job: Object, reason: str = "BackoffLimitExceeded", message: str = "") -> None:
        self._finish(job, "Failed", reason, message)

    def _finish(self, job: Object, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        condition |= {"lastTransitionTime": now()}
        metadata = job["metadata"]
        self.api.status(
            job["kind"], metadata["name"], namespace=metadata["namespace"], conditions=[condition]
        )

    def workload(self, job: Object, conditions: list[Object] | None = None) -> str:
        """Kueue's view of a job; conditions such as QuotaReserved, with a message."""
        name = f"job-{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        owner = {"kind": job["kind"], "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
        owner |= {"apiVersion": job["apiVersion"], "controller": True}
        namespace = job["metadata"]["namespace"]
        self.api.create("Workload", name, namespace=namespace, metadata={"ownerReferences": [owner]})
        self.api.status("Workload", name, namespace=namespace, conditions=conditions or [])
        return name


class Pod:
    """One pod, moved by hand."""

    def __init__(self, cluster: Cluster, made: Object) -> None:
        self.cluster, self.object = cluster, made
        self.name, self.namespace = made["metadata"]["name"], made["metadata"]["namespace"]
        self.container: str = made["spec"]["containers"][0]["name"]
        self.restarts = 0

    def event(self, reason: str, message: str, kind: str = "Warning", source: str = "") -> None:
        self.cluster.event(self.object, reason, message, kind, source)

    def status(self, **status: Any) -> None:
        self.cluster.api.status("Pod", self.name, namespace=self.namespace, **status)

    def schedule(self, node: str = "gpu-node-1") -> None:
        self.cluster.node(node)
        api = self.cluster.api
        with api.store.changed:
            resource = api.resource("Pod")
            found = api.store.get(resource, self.namespace, self.name)
            found["spec"]["nodeName"] = node
            api.store.replace(resource, self.namespace, self.name, found, "kube-scheduler")
        self.event("Scheduled", f"Successfully assigned {self.name} to {node}", "Normal")
        self.status(conditions=[{"type": "PodScheduled", "status": "True"}])

    def unschedulable(self, message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.status(conditions=[condition])
        self.event("FailedScheduling", message)

    def waiting(self, reason: str, message: str = "") -> None:
        self._container(waiting={"reason": reason, "message": message})

    def run(self, node: str = "gpu-node-1") -> None:
        self.schedule(node)
        self.status(phase="Running")
        self._container(running={"startedAt": now()})

    def restart(self, code: int, reason: str = "Error") -> None:
        """The container ended and the kubelet starts it again: its log becomes the previous one."""
        api, key = self.cluster.api, (self.namespace, self.name, self.container)
        api.logs[(*key, True)] = api.logs.pop((*key, False), [])
        self.restarts += 1
        last = {"terminated": {"exitCode": code, "reason": reason}}
        self._container(last=last, waiting={"reason": "CrashLoopBackOff", "message": "back-off restarting"})

    def log(self, *lines: str) -> None:
        from standins.kube_api import LogLine

        for line in lines:
            stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "")
            entry = LogLine(f"{stamp}{next(_count) % 1000:03d}Z", line)
            self.cluster.api.logs[self.namespace, self.name, self.container, False].append(entry)
        with self.cluster.api.store.changed:
            self.cluster.api.store.changed.notify_all()

    def exit(self, code: int, reason: str | None = None, message: str = "") -> None:
        ended = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": message,
        }
        self._container(terminated=ended | {"finishedAt": now()})
        self.status(phase="Succeeded" if code == 0 else "Failed")

    def evict(
        self, reason: str = "PreemptionByScheduler", message: str = "preempted", code: int = 75
    ) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
        self.status(conditions=[condition])
        self.exit(code)

    def gone(self, node: str = "gpu-node-1") -> None:
        """The node does not answer any more: the pod is removed with it, no exit code was seen."""
        self.cluster.node(node, ready=False)
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        self.status(conditions=[condition], phase="Failed", reason="NodeLost")

    def delete(self) -> None:
        self.cluster.api.delete("Pod", self.name, namespace=self.namespace)

    def _container(self, last: Object | None = None, **state: Any) -> None:
        status = {"name": self.container, "state": state, "restartCount": self.restarts}
        status |= {"lastState": last} if last else {}
        self.status(containerStatuses=[status])


def _template(job: Object) -> tuple[Object, str, Object, Object]:
    """Pod spec, name of the Job, labels and annotations of its pods."""
    name = job["metadata"]["name"]
    template, labels = (
        job["spec"].get("template", {}),
        {"job-name": name, "batch.kubernetes.io/job-name": name},
    )
    if job["kind"] == "JobSet":
        replicated = job["spec"]["replicatedJobs"][0]
        labels = {"jobset.sigs.k8s.io/jobset-name": name}
        name = f"{name}-{replicated['name']}-0"
        labels |= {"job-name": name, "batch.kubernetes.io/job-name": name}
        template = replicated["template"]["spec"]["template"]
    metadata = template.get("metadata", {})
    spec = template.get("spec") or {"containers": [{"name": "trainer"}]}
    return spec, name, labels | metadata.get("labels", {}), dict(metadata.get("annotations", {}))


def wait_until(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)
