"""What a supervisor does in a pod besides its ranks: the run's cost, and its last words in the bucket.

Outside of a pod, or without a bucket, nothing of it is done. Whatever fails here ends no training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from packtrain.config import ClusterConfig, RunConfig, seconds
from packtrain.errors import PacktrainError
from packtrain.plan.machines import OWN_PRICE, machine, price_per_hour
from packtrain.report.trackers.tracker import secrets as tracker_secrets
from packtrain.run.budget import Budget, Rate
from packtrain.run.event_mirror import EventMirror
from packtrain.run.launch import Nodes
from packtrain.run.log_mirror import LogMirror, Tee
from packtrain.run.mirror import open_mirror
from packtrain.run.node_time import paid_before
from packtrain.run.outcome import RankOutcome
from packtrain.run.pod import state_uri
from packtrain.run.signals import Signals
from packtrain.rundir import RunDir
from packtrain.storage import Storage

#: Seconds for the last words where nobody has asked for a stop.
AT_THE_END = 30.0


class PodWatch:
    """One node's. The plain one does nothing."""

    budget: Budget | None = None
    logs: LogMirror | None = None

    def __init__(self, signals: Signals, grace: float, say: Callable[[str], None]) -> None:
        self.signals, self.grace, self._say = signals, grace, say
        self._asked: float | None = None
        self._tee: Tee | None = None
        self._events: tuple[Path, Storage] | None = None

    def begin(self) -> None:
        """Before the ranks are started. Errors: :class:`GateError` where the budget is spent already."""
        if self.budget is not None:
            self.budget.check()
            self.budget.watch(self._stop_for_the_budget)

    def _stop_for_the_budget(self) -> None:
        assert self.budget is not None
        self._say(f"{self.budget.sentence()}: the run is stopped")
        self._asked = time.monotonic()
        self.signals.request("the budget")

    def heard(self, local_rank: int, data: bytes) -> None:
        """What a rank has printed whose output does not pass through."""
        if self.logs is not None:
            self.logs.heard(local_rank, data)

    def amend(self, outcome: RankOutcome) -> RankOutcome:
        return outcome if self.budget is None else self.budget.amend(outcome)

    def end(self, folder: Path) -> None:
        """The last words: cost, events and logs to the bucket, as long as there is time."""
        until = time.monotonic() + self._seconds_left()

        def left() -> float:
            return max(0.5, until - time.monotonic())

        if self.budget is not None:
            self.budget.close(left())
        if self._events is not None:
            path, remote = self._events
            with suppress(PacktrainError, OSError):
                EventMirror(path, remote).close(left())
        if self.logs is not None and self._tee is not None:
            self._tee.settle()
            self.logs.close(left())

    def _seconds_left(self) -> float:
        if self.signals.stop is None:
            return AT_THE_END
        asked = self.signals.asked_at if self._asked is None else self._asked
        return max(2.0, 0.9 * self.grace - (time.monotonic() - asked))


@contextmanager
def watching(
    config: RunConfig,
    folder: Path,
    *,
    processes: int,
    signals: Signals,
    say: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> Iterator[PodWatch]:
    """Watch a run whose folder on this node is ``folder``.

    Errors: :class:`~packtrain.errors.UsageError` for an environment that describes no set of nodes.
    """
    watch = PodWatch(signals, seconds(config.checkpoint.grace), say)
    uri, nodes = state_uri(config, environment), Nodes.from_environment(environment)
    with ExitStack() as stack:
        remote = None
        if uri is not None:
            with suppress(PacktrainError):  # no credentials: the run itself says so
                remote = stack.enter_context(closing(open_mirror(uri)))
        if remote is not None:
            secrets = (environment.get("HF_TOKEN", ""), *tracker_secrets(environment))
            watch.logs = LogMirror(remote, node=nodes.rank, ranks=processes, secrets=secrets)
            watch._tee = stack.enter_context(Tee(watch.logs.first))
            watch.budget = _budget(
                config.cluster, remote, leads=nodes.rank == 0, say=say, environment=environment
            )
            if nodes.rank == 0:
                watch._events = RunDir(folder).events_file, remote
        yield watch


def _budget(
    cluster: ClusterConfig,
    remote: Storage,
    *,
    leads: bool,
    say: Callable[[str], None],
    environment: Mapping[str, str],
) -> Budget | None:
    if cluster.max_cost is None:
        return None
    own = environment.get(OWN_PRICE)
    usd = float(own) if own else price_per_hour(machine(cluster.machine), cluster.capacity).usd
    if usd is None:
        say(
            f"warning: no price is known for {cluster.machine} with capacity {cluster.capacity}: "
            "cluster.max_cost is not watched"
        )
        return None
    rate = Rate(cluster.machine, cluster.capacity, cluster.nodes, usd)
    limit = float(cluster.max_cost.partition(" ")[0])
    return Budget(remote, rate, limit, leads=leads, before=paid_before(environment))
