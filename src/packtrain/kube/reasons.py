"""Why something waits: the words of scheduler, autoscaler, kubelet, controllers and Kueue as sentences.

Each has a next step, and says whether it passes by itself. Pure; the patterns are of Kubernetes 1.27 to
1.33, GKE's autoscaler and Kueue 0.10 and later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from packtrain.kube.pod_facts import Pod, Reason

Object = dict[str, Any]
SETUP = "packtrain cloud setup RUN makes what is missing"
POOL = "packtrain cloud setup RUN --create-pool makes a node pool"
LOGS = "packtrain logs RUN shows what was printed before"


@dataclass(frozen=True)
class Why:
    detail: str
    hint: str | None = None
    stuck: bool = False
    """It does not pass by itself."""


@dataclass(frozen=True)
class Rule:
    pattern: str
    detail: str
    """With the pattern's groups by number."""
    hint: str | None = None
    stuck: bool = False

    def match(self, text: str) -> Why | None:
        found = re.search(self.pattern, text, re.IGNORECASE)
        if found is None:
            return None
        return Why(self.detail.format(*found.groups(default="")), self.hint, self.stuck)


CAPACITY = (
    Rule(
        r"out of resources|RESOURCE_POOL_EXHAUSTED|STOCKOUT|does not have enough resources",
        "Google Cloud has none of these machines free there now; it is tried again",
        "cluster.capacity: flex-start waits in Google's own queue; or another location",
    ),
    Rule(
        r"quota (?:exceeded|limit)|insufficient quota|QUOTA_EXCEEDED",
        "the project's quota for these machines is used up",
        "packtrain cloud check RUN names the quota and where to ask for more",
    ),
    Rule(
        r"in backoff after failed scale-up",
        "making a node has failed lately, mostly for want of machines or quota, and is tried again",
        "packtrain cloud check RUN looks at the quota",
    ),
    Rule(
        r"max (?:node group size|cluster \w+ limit|limit) reached|max total nodes",
        "the node pool is as large as it may become, and its nodes are in use",
        "wait for other runs, or raise the pool's --total-max-nodes",
    ),
    Rule(
        r"Insufficient (nvidia\.com/gpu|cpu|memory|ephemeral-storage)",
        "no node has enough {0} free",
        "wait for other pods to end, or for the autoscaler",
    ),
    Rule(
        r"didn't match Pod's node affinity/selector|node\(s\) had untolerated taint|no nodes available",
        "no node of the cluster is of the machine and capacity that the run asks for",
        POOL,
    ),
)
IMAGE = (
    Rule(
        r"not found|manifest unknown|does not exist",
        "the image is not there: {message}",
        "packtrain image build RUN makes it",
        True,
    ),
    Rule(
        r"403|denied|unauthorized|permission",
        "the nodes have no right to pull the image: {message}",
        "packtrain cloud setup RUN gives roles/artifactregistry.reader to their service account",
        True,
    ),
    Rule(
        r"no match for platform|exec format",
        "the image is for another kind of processor: {message}",
        "packtrain image build RUN makes one for linux/amd64",
        True,
    ),
)
CREATE = (
    Rule(
        r'serviceaccounts? "?(?P<name>[\w.-]+)"? not found',
        'the service account "{0}" is not there',
        SETUP,
        True,
    ),
    Rule(r'secrets? "([\w.-]+)" not found', 'the Secret "{0}" is not there', SETUP, True),
    Rule(r"couldn't find key (\S+) in Secret (\S+)", "the Secret {1} has no key {0}", SETUP, True),
    Rule(
        r'configmaps? "([\w.-]+)" not found',
        'the ConfigMap "{0}" is not there',
        "packtrain cancel RUN, then submit it again",
        True,
    ),
    Rule(
        r"exceeded quota: (\S+?),",
        "the namespace's ResourceQuota {0} is used up",
        "whoever looks after the cluster set it: kubectl describe resourcequota",
    ),
    Rule(
        r"violates PodSecurity",
        "the namespace's Pod Security admission refuses the pods: {message}",
        "packtrain cloud setup RUN makes a namespace that lets them in",
        True,
    ),
    Rule(r"admission webhook \"([^\"]+)\" denied", "the webhook {0} refuses the pods: {message}", None, True),
)
KUEUE_STUCK = re.compile(
    r"doesn't exist|does not exist|is inactive|inactive|not found|exceeds|no flavor", re.I
)


def first_match(rules: tuple[Rule, ...], message: str) -> Why | None:
    for rule in rules:
        filled = Rule(rule.pattern, rule.detail.replace("{message}", _braced(message)), rule.hint, rule.stuck)
        found = filled.match(message)
        if found is not None:
            return found
    return None


def scheduling(pod: Pod, events: list[Object]) -> Why:
    """Why a pod has no node yet: the newest that scheduler and autoscaler say."""
    words = ("FailedScheduling", "TriggeredScaleUp", "NotTriggerScaleUp", "FailedScaleUp")
    told = [each for each in _about(pod.uid, events) if each["reason"] in words]
    scaling = [each for each in told if each["reason"] != "FailedScheduling"]
    if scaling and scaling[-1]["reason"] == "TriggeredScaleUp":
        return Why("a node is being made for it")
    for event in reversed(scaling or told):
        message = _text(event)
        found = first_match(CAPACITY, message)
        if found is not None:
            return found
        return Why(f"no node for it yet: {message}")
    if pod.unschedulable:
        return first_match(CAPACITY, pod.unschedulable) or Why(f"no node for it yet: {pod.unschedulable}")
    return Why("waits for the scheduler")


def starting(pod: Pod, waiting: Reason, events: list[Object]) -> tuple[str, Why]:
    """The phase (pulling or starting) of a pod that has a node, and what it waits for."""
    word, message = waiting.word, waiting.message
    about = _about(pod.uid, events)
    if word in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "RegistryUnavailable"):
        failures = [_text(each) for each in about if each["reason"] == "Failed"]
        said = next((each for each in reversed(failures) if "pull" in each.lower()), message)
        return "pulling", first_match(IMAGE, said) or Why(f"the image cannot be pulled: {said}", stuck=True)
    if word == "CrashLoopBackOff":
        how = pod.before.sentence if pod.before else "ended"
        return "starting", Why(f"the container {how}; the kubelet starts it again and again", LOGS, True)
    if word in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return "starting", first_match(CREATE, message) or Why(
            f"the container cannot be made ({word}): {message}", stuck=True
        )
    last = about[-1] if about else None
    if last is not None and last["reason"] in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
        said = _text(last)
        return "starting", first_match(CREATE, said) or Why(f"the pod cannot be set up: {said}")
    if last is not None and last["reason"] == "Pulling":
        return "pulling", Why(f"the image is being pulled on {pod.node}")
    return "starting", Why(f"the container is being made on {pod.node}")


def node_is_silent(pod: Pod, events: list[Object]) -> bool:
    """Whether the cluster has said that a pod's node does not answer any more."""
    return any(each["reason"] == "NodeNotReady" for each in _about(pod.uid, events))


def creating(job: Object, events: list[Object]) -> Why:
    """Why a job has no pods."""
    refused = [
        each
        for each in _about(job["metadata"].get("uid", ""), events)
        if each["reason"] in ("FailedCreate", "JobCreationFailed")
    ]
    if refused:
        message = _text(refused[-1])
        return first_match(CREATE, message) or Why(f"pods cannot be made: {message}")
    return Why("waits for its pods to be made")


def queueing(workload: Object | None, queue: str) -> Why:
    """Why Kueue has not let a job begin."""
    if workload is None:
        return Why(f"waits for Kueue to take it into the queue {queue}", "is Kueue installed? " + SETUP)
    status = workload.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or []}

    def is_true(kind: str) -> bool:
        return bool(conditions.get(kind, {}).get("status") == "True")

    for check in status.get("admissionChecks") or []:
        if check.get("state") in ("Rejected", "Retry"):
            rejected = check["state"] == "Rejected"
            said = f"Kueue's check {check.get('name')} {'refuses it' if rejected else 'is tried again'}"
            return Why(f"{said}: {_text(check)}", stuck=rejected)
    if is_true("QuotaReserved"):
        pending = [each for each in status.get("admissionChecks") or [] if each.get("state") != "Ready"]
        if pending:
            said = _text(pending[0]) or "no word yet"
            return Why(f"has its quota in the queue {queue}; waits for {pending[0].get('name')}: {said}")
        return Why("Kueue has let it in; its pods are being made")
    if is_true("Evicted"):
        return Why(
            f"Kueue took its place away: {_text(conditions['Evicted'])}; it waits in the queue {queue}"
        )
    said = _text(conditions.get("QuotaReserved", {})) or "its turn has not come"
    return Why(f"waits in the queue {queue}: {said}", stuck=bool(KUEUE_STUCK.search(said)))


def _about(uid: str, events: list[Object]) -> list[Object]:
    """The events of one object, the oldest first."""
    own = [each for each in events if (each.get("involvedObject") or {}).get("uid") == uid]
    return sorted(own, key=when)


def when(event: Object) -> str:
    """The time of an event: there are three fields for it, by age of who wrote it."""
    series = (event.get("series") or {}).get("lastObservedTime")
    created = event.get("metadata", {}).get("creationTimestamp")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or created or "")


def _text(told: Object) -> str:
    return " ".join(str(told.get("message") or "").split())[:400]


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
