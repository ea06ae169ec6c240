"""Looks at a run in its cluster, again and again: the effects around :mod:`packtrain.kube.follow`.

A look is a list of everything; a watch on the pods only says when the next one is due. So a watch that
ends, is cut or is too old (410) costs a list, and nothing that happened meanwhile is lost.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from packtrain.errors import AccessError, ConfigError, PacktrainError, PreemptedError, UnavailableError
from packtrain.kube.api import EVENT, JOB, JOBSET, POD, WORKLOAD, Cluster, Kind, Object
from packtrain.kube.api_errors import AbsentError
from packtrain.kube.follow import QUEUE_LABEL, Observation, State, look, spoken
from packtrain.kube.names import TRAINER, selector
from packtrain.kube.pod_facts import Pod, current, read_pod
from packtrain.train.progress import duration

Say = Callable[[str], None]
T = TypeVar("T")
#: Lines of rank 0 that tell where the trainer stands, or why it failed.
LINES = 40


def find_job(cluster: Cluster, name: str, *, several: bool = True) -> Object | None:
    """The Job of a run, or its JobSet. ``several``: look for a JobSet, too, where they are installed."""
    found = cluster.get(JOB, name)
    if found is not None or not several:
        return found
    with suppress(ConfigError):  # JobSet is not installed: there is none
        return cluster.get(JOBSET, name)
    return None


def observe(cluster: Cluster, job: Object | None, run: str, role: str = TRAINER) -> tuple[Observation, str]:
    """All that there is to see of a job, and the version from which a watch on its pods goes on."""
    listing = cluster.list(POD, selector(run, role))
    if job is None:
        return Observation(None, tuple(listing.items)), listing.version
    uids = {job["metadata"]["uid"], *(pod["metadata"]["uid"] for pod in listing.items)}
    events: list[Object] = []
    with suppress(AccessError):  # the run can be followed without them
        events = [each for each in cluster.list(EVENT).items if each["involvedObject"].get("uid") in uids]
    seen = Observation(job, tuple(listing.items), tuple(events), _workload(cluster, job))
    pods = [read_pod(pod) for pod in listing.items]
    return Observation(job, seen.pods, seen.events, seen.workload, _lines(cluster, pods)), listing.version


def _workload(cluster: Cluster, job: Object) -> Object | None:
    if QUEUE_LABEL not in (job["metadata"].get("labels") or {}):
        return None
    with suppress(AccessError, ConfigError):  # no right, or another version of Kueue
        for each in cluster.list(WORKLOAD).items:
            owners = each["metadata"].get("ownerReferences") or []
            if any(owner.get("uid") == job["metadata"]["uid"] for owner in owners):
                return each
    return None


def _lines(cluster: Cluster, pods: list[Pod]) -> tuple[str, ...]:
    """The last lines of the first node's pod, or of one that has failed."""
    newest = current(pods)
    told = [pod for pod in newest if pod.running and not pod.over][:1]
    told = told or sorted(
        (pod for pod in newest if pod.ended is not None),
        key=lambda pod: pod.ended is None or not pod.ended.code,
    )
    for pod in told[:1]:
        # A pod may go between two questions; what it said then comes from the bucket.
        with (
            suppress(PacktrainError),
            cluster.log(pod.name, pod.container, tailLines=str(LINES)) as lines,
        ):
            return tuple(lines)
    return ()


@dataclass(frozen=True)
class Pace:
    """How often a run is looked at, and how long bad weather may last. Seconds."""

    least: float = 1.0
    most: float = 10.0
    """Events and log lines are no changes of a pod: they are looked for at least so often."""
    repeat: float = 15.0
    """A line of the training is told at most so often."""
    remind: float = 300.0
    """What lasts is told again so often, with how long it has."""
    stuck: float = 300.0
    """What does not pass by itself is waited for so long."""
    away: float = 900.0
    """The API server may be away so long: the run goes on without it."""


PACE = Pace()


def sit_out(
    ask: Callable[[], T],
    say: Say,
    pace: Pace,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What ``ask`` returns. While the API server is away it is asked again, until that takes too long."""
    begun, said = clock(), False
    while True:
        try:
            return ask()
        except UnavailableError as error:
            if clock() - begun > pace.away:
                raise
            if not said:
                say(f"{error}; the run goes on without it, and it is asked again")
                said = True
            sleep(pace.most * random.uniform(0.5, 1.0))


@dataclass
class Watching:
    """Follows one job to its end."""

    cluster: Cluster
    name: str
    """Of the Job or JobSet."""
    kind: Kind
    run: str
    say: Say
    role: str = TRAINER
    wait_limit: float | None = None
    """Seconds in a row that it may wait for nodes."""
    pace: Pace = PACE
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def to_end(self) -> State:
        """The state in which it is over; what changes on the way is said.

        Errors: :class:`ConfigError` for what does not pass by itself, :class:`UnavailableError` where the
        wait limit is reached or the API server stays away, :class:`PreemptedError` where it was deleted.
        """
        told, told_at, since = State("gone", ""), -self.pace.repeat, self.clock()
        version = ""
        while True:
            seen = self._seen()
            if seen is not None:
                state, version = seen
                now = self.clock()
                if (state.phase, state.stuck) != (told.phase, told.stuck):
                    since = now
                news = state != told and (state.phase != "training" or now - told_at >= self.pace.repeat)
                if news or state.phase != told.phase:
                    self._tell(state)
                    told, told_at = state, now
                elif now - told_at >= self.pace.remind:
                    self.say(f"{spoken(state)} (for {duration(now - since)})")
                    told_at = now
                if state.over:
                    return self._ended(state)
                self._check(state, now - since)
            self._wait(version)

    def _seen(self) -> tuple[State, str] | None:
        """None where what is looked at goes in the middle of the look."""

        def once() -> tuple[State, str]:
            job = self.cluster.get(self.kind, self.name)
            observation, version = observe(self.cluster, job, self.run, self.role)
            return look(observation), version

        try:
            return sit_out(once, self.say, self.pace, self.clock, self.sleep)
        except AbsentError:
            return None
        except PacktrainError:
            self.say(
                f"The {self.kind.spoken} {self.name} goes on in the cluster, and is not seen any more: "
                "the same command follows it again."
            )
            raise

    def _tell(self, state: State) -> None:
        if state.over and state.phase != "gone":
            return  # whoever asked says how it ended
        self.say(spoken(state) + (f"\n  hint: {state.hint}" if state.hint else ""))

    def _ended(self, state: State) -> State:
        if state.phase == "gone":
            raise PreemptedError(
                f"the job {self.name} was deleted while it was followed",
                hint="packtrain submit RUN goes on from the last checkpoint",
            )
        return state

    def _check(self, state: State, lasts: float) -> None:
        if state.stuck and lasts > self.pace.stuck:
            step = state.hint or "look at it with kubectl describe"
            raise ConfigError(
                f"{state.detail}: this does not pass by itself",
                hint=f"{step}; packtrain cancel RUN frees the nodes",
            )
        if self.wait_limit is not None and state.phase == "queued" and lasts > self.wait_limit:
            self.cluster.delete(self.kind, self.name, foreground=True)
            raise UnavailableError(
                f"no nodes within the wait limit: {state.detail}; the job was taken back, nothing is paid",
                hint="the same command tries again, from the last checkpoint",
            )

    def _wait(self, version: str) -> None:
        """Until a pod changes, or it is time to look anyway."""
        self.sleep(self.pace.least)
        changes = self.cluster.watch(POD, version, selector(self.run, self.role), self.pace.most)
        try:
            next(iter(changes), None)
        except AccessError:  # no right to watch: look now and then
            self.sleep(self.pace.most)
        except PacktrainError:  # cut, or too old: the next look lists
            self.sleep(self.pace.least * random.uniform(0.5, 1.5))
        finally:
            changes.close()
