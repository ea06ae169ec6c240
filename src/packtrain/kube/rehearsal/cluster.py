"""Runs a rendered Job or JobSet on this machine: its pods, and what the controllers do when they end.

Without what takes a cluster its time: scheduling, queues, image pulls, back-off between two pods.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packtrain.errors import BY_EXIT_CODE, BugError, GateError, PreemptedError
from packtrain.kube.rehearsal.controllers import (
    JobFailure,
    PodDecision,
    PodEnd,
    decide_job,
    decide_jobset,
    decide_pod,
)
from packtrain.kube.rehearsal.kubelet import Changes, Difference, Identity, Resources, make_process
from packtrain.kube.rehearsal.pods import RunningPod
from packtrain.run import interrupts, processes
from packtrain.rundir import Event

_LOOK = 0.01


@dataclass(frozen=True)
class Preemption:
    """Takes one pod away in the middle of training, once."""

    index: int
    after_step: int
    grace: float
    """Seconds from SIGTERM to SIGKILL: what Spot leaves to a pod."""


@dataclass(frozen=True)
class Ended:
    """A pod's end, and what was made of it."""

    pod: PodEnd
    action: str
    """``Complete``, an action of the policies, or ``Terminated`` with its Job."""


@dataclass
class Story:
    """What became of the workload."""

    kind: str
    pods: list[Ended] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    """Of a JobSet: the action, and the rule that said so."""
    failure: JobFailure | None = None
    struck_after: int | None = None
    """The step after which a pod was taken away."""
    differences: list[Difference] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    """Those of node 0's last pod."""
    said: list[str] = field(default_factory=list)
    """What the pod printed that decided a failure."""
    exit_code: int = 0

    def resumed_from(self) -> int | None:
        starts = [event for event in self.events if event.kind == "start"]
        return starts[-1].fields.get("resumed_from") if starts else None


@dataclass
class Cluster:
    """One namespace with a ConfigMap, a Secret and one Job or JobSet. ``until``: by the monotonic clock."""

    manifests: Sequence[Mapping[str, Any]]
    secrets: Mapping[str, Mapping[str, str]]
    changes: Changes
    folder: Path
    until: float
    say: Callable[[str], None]
    preemption: Preemption | None = None

    def __post_init__(self) -> None:
        self._workload = self.manifests[-1]
        held = {
            each["metadata"]["name"]: each["data"] for each in self.manifests if each["kind"] == "ConfigMap"
        }
        self._resources = Resources(held, self.secrets)
        self._uid = str(uuid.uuid4())
        self._pods: dict[int, RunningPod] = {}
        self._count = 0
        self._failures = 0
        self._check: Callable[[], None]
        self.story = Story(self._workload["kind"])

    def run(self) -> Story:
        """To the workload's end. Errors: :class:`GateError` where time is over first."""
        with self._cleaned_up():
            if self._workload["kind"] == "Job":
                name = self._workload["metadata"]["name"]
                self.story.failure = self._job(self._workload["spec"], name, self._uid, {})
            else:
                self.story.failure = self._jobset()
        return self.story

    def _jobset(self) -> JobFailure | None:
        name, spec = self._workload["metadata"]["name"], self._workload["spec"]
        [replicated] = spec["replicatedJobs"]
        policy = spec.get("failurePolicy")
        restarts = counted = 0
        while True:
            labels = {
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/jobset-uid": self._uid,
                "jobset.sigs.k8s.io/replicatedjob-name": replicated["name"],
                "jobset.sigs.k8s.io/restart-attempt": str(restarts),
            }
            job = f"{name}-{replicated['name']}-0"
            failure = self._job(replicated["template"]["spec"], job, str(uuid.uuid4()), labels)
            if failure is None:
                return None
            decision = decide_jobset(policy, failure, replicated["name"])
            rule = f", rule {decision.rule}" if decision.rule else ", no rule fits"
            counted += decision.action == "RestartJobSet"
            if decision.action == "FailJobSet" or counted > (policy or {}).get("maxRestarts", 0):
                return failure
            restarts += 1
            self.story.restarts.append(f"{decision.action}{rule}")
            self.say(f"the JobSet begins again: {decision.action}{rule}")

    def _job(
        self, spec: Mapping[str, Any], name: str, uid: str, labels: Mapping[str, str]
    ) -> JobFailure | None:
        """One Job, with all pods gone at its end; None where it is complete."""
        indexed = spec.get("completionMode") == "Indexed"
        namespace = self._workload["metadata"]["namespace"]
        container = spec["template"]["spec"]["containers"][0]["name"]
        self._failures = 0

        def start(index: int) -> None:
            own = {"batch.kubernetes.io/job-name": name, "batch.kubernetes.io/controller-uid": uid, **labels}
            annotations = dict(spec["template"]["metadata"].get("annotations", {}))
            if indexed:
                own["batch.kubernetes.io/job-completion-index"] = str(index)
                annotations["batch.kubernetes.io/job-completion-index"] = str(index)
            own |= spec["template"]["metadata"].get("labels", {})
            suffix = f"-{index}" if indexed else ""
            pod_name = f"{name}{suffix}-{secrets.token_hex(3)[:5]}"
            identity = Identity(pod_name, namespace, str(uuid.uuid4()), own, annotations)
            self._start(
                spec["template"], identity, index, {"JOB_COMPLETION_INDEX": str(index)} if indexed else {}
            )

        waiting = set(range(spec.get("completions", 1)))
        while waiting:
            for index in sorted(waiting - self._pods.keys()):
                start(index)
            ends = self._wait()
            waiting -= {end.index for end in ends if end.exit_code == 0}
            decisions = self._decide(spec, [end for end in ends if end.exit_code], namespace, container)
            failure = decide_job(decisions, self._failures, spec.get("backoffLimit", 6))
            if failure is not None:
                self._end_the_rest()
                return failure
        return None

    def _decide(
        self, spec: Mapping[str, Any], ends: Sequence[PodEnd], namespace: str, container: str
    ) -> list[PodDecision]:
        decisions = []
        for end in ends:
            decision = decide_pod(spec.get("podFailurePolicy"), end, namespace, container)
            self._failures += decision.action == "Count"
            decisions.append(decision)
            self._note(end, decision.action)
        return decisions

    def _start(
        self, template: Mapping[str, Any], identity: Identity, index: int, job_environment: Mapping[str, str]
    ) -> None:
        folder = self.folder / f"{self._count}-{identity.name}"
        folder.mkdir(parents=True)
        made = make_process(template, identity, self._resources, self.changes, folder, job_environment)
        self._count += 1
        for difference in made.differences:
            if difference not in self.story.differences:
                self.story.differences.append(difference)
        self._pods[index] = RunningPod.start(identity.name, index, folder, made)
        self.say(f"pod {identity.name} is started")

    def _wait(self) -> list[PodEnd]:
        """Until at least one pod has ended; all that have, by index."""
        while True:
            if time.monotonic() > self.until:
                raise GateError("the rehearsal did not end in its time", hint="allow more with --time-limit")
            self._check()
            self._preempt()
            found = [(index, end) for index, pod in sorted(self._pods.items()) if (end := pod.poll())]
            ends = [self._take(index, end) for index, end in found]
            if ends:
                return ends
            time.sleep(_LOOK)

    def _take(self, index: int, end: PodEnd) -> PodEnd:
        """A pod that has ended goes; what it leaves to be told stays."""
        pod = self._pods.pop(index)
        if index == 0:
            self.story.events = pod.events()
        if end.exit_code == 0:
            self._note(end, "Complete")
        elif end.exit_code != PreemptedError.exit_code:
            self.story.said = [line for line in pod.lines() if line.strip()][-12:]
            self.story.exit_code = end.exit_code
        return end

    def _note(self, end: PodEnd, action: str) -> None:
        self.story.pods.append(Ended(end, action))
        self.say(f"pod {end.name} ended with {end.exit_code}: {action}")

    def _preempt(self) -> None:
        wanted, leader = self.preemption, self._pods.get(0)
        if wanted is None or self.story.struck_after is not None or leader is None:
            return
        victim = self._pods.get(wanted.index)
        steps = [event.step for event in leader.events() if event.kind == "step"]
        if victim is None or not steps or steps[-1] < wanted.after_step:
            return
        if any(event.kind == "end" for event in leader.events()) or victim.process.poll() is not None:
            return
        self.story.struck_after = steps[-1]
        victim.disrupted = True
        victim.terminate(min(wanted.grace, victim.made.grace_seconds))
        self.say(f"pod {victim.name} is taken away after step {steps[-1]}: SIGTERM")

    def _end_the_rest(self) -> None:
        """The pods of a Job that has failed: BlockingRecreate waits until they are gone."""
        for pod in self._pods.values():
            pod.terminate(pod.made.grace_seconds)
        while self._pods:
            self._check()
            for index, pod in sorted(self._pods.items()):
                end = pod.poll()
                if end is not None:
                    self._pods.pop(index)
                    self._note(replace(end, disrupted=pod.disrupted), "Terminated")
                    if index == 0:
                        self.story.events = pod.events()
            time.sleep(_LOOK)

    @contextmanager
    def _cleaned_up(self) -> Iterator[None]:
        """Nothing that was started here is left, however the rehearsal ends."""
        with processes.adopting_orphans(), interrupts.held() as self._check:
            try:
                yield
            finally:
                for pod in self._pods.values():
                    pod.kill()
                    with suppress(Exception):
                        pod.process.wait(10)


def failure_error(story: Story) -> Exception:
    """The error that the cluster's run would have ended with."""
    assert story.failure is not None
    kind = BY_EXIT_CODE.get(story.exit_code, BugError)
    errors = [line.removeprefix("error: ") for line in story.said if line.startswith("error: ")]
    errors = errors or [error for line in story.said for error in _refused(line)]
    said = "; ".join(errors) or (story.said[-1] if story.said else "it said nothing")
    return kind(f"the rehearsal failed: {story.failure.message}: {said}")


def _refused(line: str) -> list[str]:
    """What the preflight pod says that it may not use, where ``line`` is its answer."""
    with suppress(ValueError, KeyError, TypeError):
        return [str(each["message"]) for each in json.loads(line)["checks"] if not each["ok"]]
    return []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
