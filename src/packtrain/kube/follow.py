"""Where a run stands, told from what the cluster shows: objects in, a phase and a sentence out. Pure.

queued → pulling → starting → loading → training → publishing → succeeded
   ↑________________ replaced _______________|            failed, gone
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from packtrain.errors import BugError, GateError
from packtrain.kube import reasons
from packtrain.kube.pod_facts import Ended, Pod, Reason, current, disruption, meaning, read_pod
from packtrain.kube.reasons import Why
from packtrain.run.outcome import gravity

Object = dict[str, Any]
Phase = Literal[
    "queued", "pulling", "starting", "loading", "training", "publishing", "stopping", "replaced",
    "succeeded", "failed", "gone",
]  # fmt: skip
OVER: frozenset[Phase] = frozenset({"succeeded", "failed", "gone"})
#: The order in which the slowest of several pods is found.
ORDER: tuple[Phase, ...] = ("queued", "pulling", "starting", "stopping", "loading", "training", "publishing")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_EXIT = re.compile(r"failed with exit code (\d+)")
#: What the trainer prints when a stage begins, by phase.
_STAGES: tuple[tuple[re.Pattern[str], Phase], ...] = (
    (re.compile(r"step \d+"), "training"),
    (re.compile(r"evaluating|answering the prompts"), "training"),
    (re.compile(r"writing the adapter|loading it again|publishing|Successfully uploaded"), "publishing"),
    (re.compile(r"loading|getting the tokenizer|reading the data|going on|downloading|copying"), "loading"),
    (re.compile(r"[\d,]+ rows, [\d,]+ steps"), "training"),
)


@dataclass(frozen=True)
class Observation:
    """What was seen in one look."""

    job: Object | None
    """The Job or JobSet."""
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    """Kubernetes' events about any of these."""
    workload: Object | None = None
    """Kueue's."""
    lines: tuple[str, ...] = ()
    """The last that rank 0 printed."""


@dataclass(frozen=True)
class State:
    phase: Phase
    detail: str
    hint: str | None = None
    stuck: bool = False
    """It does not pass by itself."""
    exit_code: int | None = None
    """Of a run that is over."""
    pods: tuple[Pod, ...] = field(default=(), compare=False)
    """The newest of each node."""

    @property
    def over(self) -> bool:
        return self.phase in OVER


def look(seen: Observation) -> State:
    if seen.job is None:
        return State("gone", "there is no Job or JobSet of this name in the cluster")
    pods = [read_pod(pod) for pod in seen.pods]
    newest = current(pods)
    return replace(_state(seen, seen.job, pods, newest), pods=tuple(newest))


def _state(seen: Observation, job: Object, pods: list[Pod], newest: list[Pod]) -> State:
    conditions = {
        each["type"]: each
        for each in (job.get("status") or {}).get("conditions") or []
        if each.get("status") == "True"
    }
    for finished in ("Complete", "Completed"):
        if finished in conditions:
            return State("succeeded", "done and verified", exit_code=0)
    if "Failed" in conditions:
        return _failed(conditions["Failed"], pods, seen.lines)
    if "deletionTimestamp" in job["metadata"]:
        return State("stopping", "the job is being deleted")
    if (job.get("spec") or {}).get("suspend") or "Suspended" in conditions:
        return _suspended(job, seen.workload)
    events = list(seen.events)
    running = [pod for pod in newest if not pod.over]
    if not running:
        return _between(job, newest, events)
    states = [_of_pod(pod, events, seen.lines) for pod in running]
    slowest = min(states, key=lambda state: (not state.stuck, ORDER.index(state.phase)))
    return _counted(slowest, running, newest)


def _suspended(job: Object, workload: Object | None) -> State:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    if queue is None:
        hint = "packtrain cancel RUN, and submit it again"
        return State("queued", "the job is suspended, and by no queue", hint, stuck=True)
    return _waits("queued", reasons.queueing(workload, queue))


def _of_pod(pod: Pod, events: list[Object], lines: tuple[str, ...]) -> State:
    if pod.deleted:
        why = f" ({pod.disrupted.word})" if pod.disrupted else ""
        return State("stopping", f"the pod {pod.name} is being taken down{why}")
    if pod.waiting is not None and pod.waiting.word == "CrashLoopBackOff":
        return _waits(*reasons.starting(pod, pod.waiting, events))
    if not pod.node and not pod.running:
        return _waits("queued", reasons.scheduling(pod, events))
    if not pod.running:
        waiting = pod.waiting or Reason("ContainerCreating")
        return _waits(*reasons.starting(pod, waiting, events))
    if not pod.ready and reasons.node_is_silent(pod, events):
        return State("stopping", f"the node {pod.node} does not answer; if it stays so, the pod is replaced")
    phase, line = printed(lines)
    return State(phase, line or f"the container runs on {pod.node}")


def printed(lines: tuple[str, ...]) -> tuple[Phase, str]:
    """Phase and line of the last that says where the trainer stands."""
    for line in reversed(lines):
        text = line.strip()
        for pattern, phase in _STAGES:
            if pattern.match(text):
                return phase, text
    return "starting", ""


def _between(job: Object, newest: list[Pod], events: list[Object]) -> State:
    """No pod is there that could run: the first is not made yet, or the next one."""
    ended = [pod for pod in newest if pod.over]
    if not ended:
        return _waits("queued", reasons.creating(job, events))
    last = max(ended, key=lambda pod: (pod.disrupted is not None, gravity(_exit_code(pod)), pod.created))
    if all(pod.phase == "Succeeded" for pod in newest):
        return State("publishing", "all pods have ended well; the job is being closed")
    if last.disrupted is not None:
        why = disruption(last.disrupted)
        return State("replaced", f"the pod {last.name} was evicted: {why}; another one takes its place")
    how = last.ended.sentence if last.ended else "failed"
    return State("replaced", f"the pod {last.name} {how}; it is tried again")


def _failed(condition: Object, pods: list[Pod], lines: tuple[str, ...]) -> State:
    """The gravest that a container said; else what the condition says of it."""
    ended = [pod for pod in pods if pod.ended is not None and pod.ended.exit_code != 0]
    # An evicted pod was killed in mid-work: what it ended with is no cause, where there is another.
    counted = [pod for pod in ended if pod.disrupted is None] or ended
    ends = [pod.ended for pod in counted if pod.ended is not None]
    said = " ".join((condition.get("message") or "").split())
    if condition.get("reason") == "DeadlineExceeded":
        return State(
            "failed",
            "its time limit (activeDeadlineSeconds) was over",
            "the same command goes on from the last checkpoint",
            exit_code=GateError.exit_code,
        )
    if ends:
        worst = max(ends, key=lambda end: gravity(end.exit_code))
        told = [line.strip() for line in lines if line.startswith("error: ")]
        hints = [line.strip()[len("hint: ") :] for line in lines if line.startswith("hint: ")]
        detail = (
            told[-1].removeprefix("error: ") if told else worst.message or f"the trainer {worst.sentence}"
        )
        return State("failed", detail, hints[-1] if told and hints else None, exit_code=worst.exit_code)
    found = _EXIT.search(said)
    if found:
        end = Ended(int(found[1]), "Error")
        return State("failed", f"the trainer {end.sentence}", exit_code=end.exit_code)
    reason = condition.get("reason") or "no reason given"
    return State("failed", f"{reason}: {said}" if said else str(reason), exit_code=BugError.exit_code)


def _exit_code(pod: Pod) -> int:
    return pod.ended.exit_code if pod.ended else BugError.exit_code


def _waits(phase: str, why: Why) -> State:
    assert phase in ORDER
    return State(phase, why.detail, why.hint, why.stuck)


def _counted(state: State, running: list[Pod], newest: list[Pod]) -> State:
    """Of several nodes, how many are there."""
    if len(newest) < 2 or state.phase in ("loading", "training", "publishing"):
        return state
    up = sum(1 for pod in running if pod.running and not pod.deleted)
    return replace(state, detail=f"{up} of {len(newest)} nodes run; {state.detail}")


def spoken(state: State) -> str:
    """One line for a person."""
    told = f"{state.phase}: {state.detail}"
    if not state.exit_code or f"exit code {state.exit_code}:" in told:
        return told
    return f"{told} (exit code {state.exit_code}, {meaning(state.exit_code)})"
