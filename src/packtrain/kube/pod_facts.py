"""One pod of a run, read: where it stands, what it waits for, how it ended. Pure.

Fields: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from packtrain.errors import BY_EXIT_CODE, BugError, MemoryExceededError

Object = dict[str, Any]
INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Reason:
    """A word of Kubernetes, and what it says more."""

    word: str
    message: str = ""


#: Of the condition DisruptionTarget, and of a pod's own reason: who took it away, and why.
#: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
DISRUPTIONS = {
    "PreemptionByScheduler": "a pod of higher priority has its place",
    "DeletionByTaintManager": "its node does not answer, or is tainted",
    "EvictionByEvictionAPI": "its node is drained, as for an upgrade",
    "DeletionByPodGC": "its node is gone",
    "NodeLost": "its node is gone",
    "TerminationByKubelet": "its node shuts down, as when Spot is taken back, or is short of memory or disk",
    "NodeShutdown": "its node shuts down, as when Spot is taken back",
    "Terminated": "its node shuts down, as when Spot is taken back",
}


def disruption(reason: Reason) -> str:
    """Such as ``its node is gone (DeletionByPodGC)``, with what Kubernetes said more."""
    told = ": ".join(filter(None, (reason.word, reason.message)))
    known = DISRUPTIONS.get(reason.word)
    return f"{known} ({told})" if known else told


@dataclass(frozen=True)
class Ended:
    """A container that has ended."""

    code: int
    reason: str
    message: str = ""

    @property
    def exit_code(self) -> int:
        """As :mod:`packtrain.errors` has it: what is not one of ours is a bug, or memory."""
        if self.reason == "OOMKilled":
            return MemoryExceededError.exit_code
        return self.code if self.code == 0 or self.code in BY_EXIT_CODE else BugError.exit_code

    @property
    def sentence(self) -> str:
        if self.reason == "OOMKilled":
            return "was killed for want of memory (OOMKilled)"
        return f"ended with exit code {self.code}: {meaning(self.code)}"


@dataclass(frozen=True)
class Pod:
    name: str
    uid: str
    index: int
    """Of its node, from 0."""
    created: str
    node: str
    """Empty while it has none."""
    phase: str
    container: str
    """The one that trains; others are helpers."""
    deleted: bool
    """It is being taken down."""
    unschedulable: str | None
    """What the scheduler says, where it found no node."""
    waiting: Reason | None
    running: bool
    ended: Ended | None
    before: Ended | None
    """How the container before this one ended: the kubelet started it again. Or a helper that is waited
    for."""
    restarts: int
    disrupted: Reason | None
    """Evicted, preempted, or its node went."""
    ready: bool
    """A trainer has no probe: one that runs and is not ready is on a node that does not answer."""

    @property
    def over(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


def read_pod(pod: Object) -> Pod:
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    containers = spec.get("containers") or [{"name": ""}]
    name = containers[0]["name"]
    told = [each for each in status.get("containerStatuses") or [] if each.get("name") == name]
    own: Object = told[0] if told else {}
    state = own.get("state") or {}
    helper = _helper(status)
    waits = ((helper.get("state") or {}) if helper else state).get("waiting")
    conditions = {each.get("type"): each for each in status.get("conditions") or []}
    scheduled, target = conditions.get("PodScheduled", {}), conditions.get("DisruptionTarget", {})
    marks = (metadata.get("labels") or {}) | (metadata.get("annotations") or {})
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        index=int(marks.get(INDEX) or 0),
        created=metadata.get("creationTimestamp", ""),
        node=spec.get("nodeName", ""),
        phase=status.get("phase", "Pending"),
        container=name,
        deleted="deletionTimestamp" in metadata,
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else None,
        waiting=_reason(waits) if waits else None,
        running="running" in state,
        ended=_ended(state.get("terminated")),
        before=_ended(((helper or own).get("lastState") or {}).get("terminated")),
        restarts=int(own.get("restartCount") or 0),
        disrupted=_reason(target) if target.get("status") == "True" else _lost(status),
        ready=conditions.get("Ready", {}).get("status") != "False",
    )


def _helper(status: Object) -> Object | None:
    """The helper that has to be there before the container, and is waited for."""
    for helper in status.get("initContainerStatuses") or []:
        waiting = (helper.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing"):
            return dict(helper)
    return None


def _lost(status: Object) -> Reason | None:
    reason = status.get("reason", "")
    if reason in ("Evicted", "NodeLost", "NodeShutdown", "Terminated", "Preempting", "Shutdown"):
        return Reason(reason, " ".join(str(status.get("message", "")).split()))
    return None


def _reason(told: Object) -> Reason:
    return Reason(told.get("reason") or "", " ".join((told.get("message") or "").split()))


def _ended(terminated: Object | None) -> Ended | None:
    if not terminated:
        return None
    message = " ".join((terminated.get("message") or "").split())
    return Ended(int(terminated.get("exitCode", 0)), terminated.get("reason") or "", message)


def meaning(code: int) -> str:
    """What an exit code says, such as ``the training data is bad``."""
    if code == 0:
        return "done and verified"
    if code > 128:
        return {137: "killed", 139: "crashed (segmentation fault)", 143: "terminated"}.get(
            code, f"ended by signal {code - 128}"
        )
    kind = BY_EXIT_CODE.get(code)
    if kind is None or kind is BugError:
        return "something that nobody foresaw"
    line = (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return line[0].lower() + line[1:]


def current(pods: list[Pod]) -> list[Pod]:
    """Of each index the newest pod."""
    newest: dict[int, Pod] = {}
    for pod in sorted(pods, key=lambda each: (each.created, not each.over)):
        newest[pod.index] = pod
    return [newest[index] for index in sorted(newest)]
