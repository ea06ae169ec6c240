"""``packtrain logs``: what all nodes print, followed over cut streams and replaced pods.

Where pods are gone, the last lines come from the bucket, where the supervisor keeps them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from packtrain.config import RunConfig
from packtrain.errors import ConfigError, PacktrainError
from packtrain.kube import observe
from packtrain.kube.api import POD, Cluster
from packtrain.kube.api_errors import AbsentError, NotYetError
from packtrain.kube.follow import Observation, look
from packtrain.kube.log_streams import LogLostError, Reader
from packtrain.kube.names import TRAINER, selector
from packtrain.kube.observe import Pace, Say, find_job
from packtrain.kube.places import run_place
from packtrain.kube.pod_facts import Pod, current, read_pod
from packtrain.run.log_mirror import RankLog, read_logs


@dataclass(frozen=True)
class Line:
    node: int
    rank: int | None
    """None for what a pod prints: its first rank, and the supervisor."""
    text: str

    def prefixed(self, nodes: int) -> str:
        if self.rank is not None:
            return f"[node {self.node} rank {self.rank}] {self.text}"
        return f"[node {self.node}] {self.text}" if nodes > 1 else self.text


SayLine = Callable[[Line], None]


def pods_of(cluster: Cluster, run: str) -> list[Pod]:
    return [read_pod(pod) for pod in cluster.list(POD, selector(run, TRAINER)).items]


def show(cluster: Cluster, run: str, say: SayLine) -> bool:
    """What is there now, of each node's newest pod that has begun; whether there was anything."""
    shown = [_show_pod(cluster, pod, say) for pod in current(pods_of(cluster, run))]
    return any(shown)


def show_previous(cluster: Cluster, run: str, say: SayLine) -> bool:
    """Of each node the pod before the newest, or the container before this one."""
    pods, shown = pods_of(cluster, run), []
    for newest in current(pods):
        older = [pod for pod in pods if pod.index == newest.index and pod.uid != newest.uid]
        if older:
            shown.append(_show_pod(cluster, current(older)[0], say))
        else:
            shown.append(_show_pod(cluster, newest, say, previous="true"))
    return any(shown)


def _show_pod(cluster: Cluster, pod: Pod, say: SayLine, **options: str) -> bool:
    try:
        with cluster.log(pod.name, pod.container, **options) as lines:
            for line in lines:
                say(Line(pod.index, None, line))
    except (AbsentError, NotYetError):
        return False
    return True


@dataclass
class Following:
    """All pods of a run, those to come as well, until its job is over."""

    cluster: Cluster
    run: str
    say: SayLine
    note: Say
    pace: Pace

    def to_end(self) -> bool:
        """Whether there was any pod. Ctrl-C ends it, and leaves the run alone."""
        lines: queue.Queue[Line | PacktrainError] = queue.Queue()
        stop = threading.Event()
        readers: dict[str, threading.Thread] = {}
        try:
            while True:
                over, pods = observe.sit_out(self._look, self.note, self.pace)
                for pod in pods:
                    if pod.uid not in readers:
                        readers[pod.uid] = self._read(pod, lines, stop)
                self._print(lines, 2 * self.pace.least)
                if over and not any(thread.is_alive() for thread in readers.values()):
                    self._print(lines, 0.0)
                    return bool(readers)
        finally:
            stop.set()

    def _look(self) -> tuple[bool, list[Pod]]:
        """Whether the job is over, and its pods."""
        job = find_job(self.cluster, self.run)
        return job is None or look(Observation(job)).over, pods_of(self.cluster, self.run)

    def _read(
        self, pod: Pod, lines: queue.Queue[Line | PacktrainError], stop: threading.Event
    ) -> threading.Thread:
        def run() -> None:
            try:
                Reader(
                    self.cluster,
                    pod,
                    lambda line: lines.put(Line(pod.index, None, line)),
                    stop,
                    self.pace.least,
                    self.pace.away,
                ).run()
            except PacktrainError as error:
                lines.put(error)

        thread = threading.Thread(target=run, name=f"log of {pod.name}", daemon=True)
        thread.start()
        return thread

    def _print(self, lines: queue.Queue[Line | PacktrainError], seconds: float) -> None:
        """What comes within some seconds."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = lines.get(timeout=max(0.0, until - time.monotonic()) or 0.001)
            except queue.Empty:
                return
            if isinstance(line, LogLostError):
                self.note(str(line))
                continue
            if isinstance(line, PacktrainError):
                raise line
            self.say(line)


def from_bucket(config: RunConfig, *, previous: bool, every_rank: bool) -> Iterator[Line]:
    """The last lines of the newest attempt of each node, as the supervisor has kept them."""
    with run_place(config) as found:
        kept = read_logs(found[1]) if found is not None else []
    if not every_rank:
        kept = [
            log for log in kept if log.rank == min(each.rank for each in kept if each.attempt == log.attempt)
        ]
    chosen = _attempts(kept, 1 if previous else 0)
    for log in chosen:
        rank = log.rank if every_rank else None
        yield from (Line(_node(log), rank, text) for text in log.text.splitlines())


def _attempts(kept: list[RankLog], back: int) -> list[RankLog]:
    """Of each node the logs of its newest attempt, or of the one so many before it."""
    chosen: list[RankLog] = []
    for node in sorted({_node(log) for log in kept}):
        attempts = sorted({log.attempt for log in kept if _node(log) == node}, reverse=True)
        if len(attempts) > back:
            chosen += [log for log in kept if log.attempt == attempts[back]]
    return chosen


def _node(log: RankLog) -> int:
    number = log.attempt.rpartition("-node-")[2]
    return int(number) if number.isdigit() else 0


@dataclass(frozen=True)
class Wanted:
    follow: bool = False
    previous: bool = False
    every_rank: bool = False
    """From the bucket: a pod prints what its first rank says."""


def logs(
    config: RunConfig,
    connect: Callable[[], AbstractContextManager[Cluster]],
    say: SayLine,
    wanted: Wanted,
    *,
    note: Say,
) -> None:
    """Print the logs of a run. Errors: :class:`ConfigError` where there are none anywhere."""
    shown, unreachable = False, None
    if not wanted.every_rank:
        try:
            with connect() as cluster:
                shown = _from_cluster(cluster, config, say, wanted, note)
        except PacktrainError as error:
            unreachable = error
    if shown:
        return
    for line in from_bucket(config, previous=wanted.previous, every_rank=wanted.every_rank):
        if unreachable is not None and not shown:
            note(f"{unreachable}: what the bucket has is shown")
        say(line)
        shown = True
    if not shown and unreachable is not None:
        raise unreachable
    if not shown:
        which = "no attempt before the last one" if wanted.previous else "nothing that was printed"
        raise ConfigError(
            f"there is {which} of the run {config.name}, in the cluster or in the bucket",
            hint="packtrain status RUN says how it stands",
        )


def _from_cluster(cluster: Cluster, config: RunConfig, say: SayLine, wanted: Wanted, note: Say) -> bool:
    if wanted.previous:
        return show_previous(cluster, config.name, say)
    if wanted.follow:
        return Following(cluster, config.name, say, note, observe.PACE).to_end()
    return show(cluster, config.name, say)
