"""The ranks of one node, watched from their start to their end.

The ranks are asked to stop by a signal to each of them: torchrun, which would pass on its own, forgets
their exit codes then. Nothing that they started goes on when this ends.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from packtrain.errors import BugError, MemoryExceededError, PreemptedError, UnavailableError
from packtrain.run import launch, processes
from packtrain.run.launch import Engine, Nodes
from packtrain.run.outcome import (
    FOLDER,
    Circumstances,
    RankOutcome,
    gravest,
    read_outcomes,
    request_stop,
    settle,
    signal_name,
)
from packtrain.run.signals import Signals

#: What a second Ctrl-C ends with: 128 + SIGINT, as shells have it.
INTERRUPTED = 130
#: Seconds beyond the grace before ranks that have not ended are killed.
MARGIN = 5.0
#: Seconds without any rank, after a stop, before the launcher itself is ended.
IDLE = 2.0
#: Lines kept of what a rank prints whose output does not pass through.
LAST_LINES = 20
#: The rank of an outcome that is not a rank's but its launcher's.
LAUNCHER = -1


@dataclass(frozen=True)
class Verdict:
    """How the ranks of a node ended, all in all."""

    outcome: RankOutcome
    shown: bool
    """The rank has said it itself, where the user sees it."""
    lines: tuple[str, ...] = ()
    """The last that it printed."""


class Node:
    """Starts ``command`` in ``count`` ranks, with what they tell in ``folder``."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        nodes: Nodes,
        engine: Engine,
        folder: Path,
        signals: Signals,
        grace: float,
        on_output: Callable[[int, bytes], None] = lambda local_rank, data: None,
    ) -> None:
        """``on_output``: gets what the ranks print whose output does not pass through."""
        self._on_output = on_output
        self.command, self.count, self.nodes, self.engine = command, count, nodes, engine
        self.folder, self.signals, self.grace = folder, signals, grace
        self._ranks = range(nodes.rank * count, (nodes.rank + 1) * count)
        self._others = set(processes.children(os.getpid()))
        self._pipes: dict[int, int] = {}
        self._printed: dict[int, deque[str]] = {}
        self._asked: set[int] = set()
        self._stopped_at = self._last_rank_seen = 0.0
        self._overdue = False

    def run(self, environment: Mapping[str, str]) -> Verdict:
        if self.signals.stop is not None:
            return self._stopped_early()
        oom_files = processes.oom_kill_files()
        oom_kills = processes.oom_kills(oom_files)
        with ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(self.signals.descriptor, selectors.EVENT_READ)
            for local_rank in range(1, self.count):
                selector.register(self._open_pipe(local_rank), selectors.EVENT_READ)
                stack.callback(os.close, self._pipes[local_rank])
            launcher = self._start(environment)
            while launcher.poll() is None:
                selector.select(0.1 if self._stopped_at else 1.0)
                self._tend(launcher.pid)
            self._end_the_rest()
            self._read_pipes()
        return self._judge(launcher.returncode, processes.oom_kills(oom_files) > oom_kills)

    def _tend(self, launcher: int) -> None:
        self.signals.drain()
        self._read_pipes()
        self._reap_orphans(launcher)
        if self.signals.stop is not None:
            self._pass_on(launcher)

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        defaults = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        if self.count > 1:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            defaults["OMP_NUM_THREADS"] = str(max(1, cores // self.count))  # torchrun would say 1
        return subprocess.Popen(
            launch.launcher_arguments(self.command, self.engine, self.count, self.nodes, os.getpid()),
            env={**defaults, **environment, FOLDER: str(self.folder)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
        )

    def _open_pipe(self, local_rank: int) -> int:
        path = launch.output_pipe(self.folder, local_rank)
        os.mkfifo(path)
        # For writing too: it does not end when the last writer goes.
        self._pipes[local_rank] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._printed[local_rank] = deque([""], maxlen=LAST_LINES + 1)
        return self._pipes[local_rank]

    def _read_pipes(self) -> None:
        for local_rank, pipe in self._pipes.items():
            lines = self._printed[local_rank]
            with suppress(BlockingIOError):
                data = os.read(pipe, 1 << 20)
                self._on_output(local_rank, data)
                first, *more = data.decode(errors="replace").split("\n")
                lines[-1] = (lines[-1] + first)[-2000:]
                lines.extend(line[-2000:] for line in more)

    def _reap_orphans(self, launcher: int) -> None:
        """Wait for what ended here without a parent; the launcher, and what was here before, have theirs."""
        for pid in processes.children(os.getpid()):
            if pid != launcher and pid not in self._others:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _pass_on(self, launcher: int) -> None:
        now = time.monotonic()
        if not self._stopped_at:
            request_stop(self.folder)
            self._stopped_at = self._last_rank_seen = now
        ranks = processes.children(launcher)
        if ranks:
            self._last_rank_seen = now
        elif now - self._last_rank_seen > IDLE:
            ranks = [launcher]  # it is starting, or waits for other nodes
        processes.send(set(ranks) - self._asked, signal.SIGTERM)
        self._asked.update(ranks)
        deadline = self._stopped_at + self.grace + MARGIN
        if self.signals.interrupts > 1:
            processes.send([*processes.descendants(launcher), launcher], signal.SIGKILL)
        elif now > deadline:
            self._overdue = True
            # The launcher first tells how the ranks ended.
            late = [launcher] if now > deadline + MARGIN else []
            processes.send([*processes.descendants(launcher), *late], signal.SIGKILL)

    def _end_the_rest(self) -> None:
        """What ranks left behind, and the ranks themselves where their launcher died."""
        patience = 0.0 if self.signals.interrupts > 1 else MARGIN
        begun = time.monotonic()
        asked: set[int] = set()
        while left := [pid for pid in processes.descendants(os.getpid()) if pid not in self._others]:
            waited = time.monotonic() - begun
            if waited > patience + MARGIN:
                return  # in a system call that does not return
            if waited >= patience:
                processes.send(left, signal.SIGKILL)
            else:
                processes.send(set(left) - asked, signal.SIGTERM)
                asked.update(left)
            self._reap_orphans(launcher=-1)
            self._read_pipes()
            time.sleep(0.02)

    def _judge(self, launcher_status: int, oom_killed: bool) -> Verdict:
        if self.signals.interrupts > 1:
            return Verdict(RankOutcome(LAUNCHER, INTERRUPTED, "interrupted"), shown=False)
        told, report = read_outcomes(self.folder), launch.read_ends(self.folder)
        ends, error = report or ({}, None)
        if report is not None and error is None:
            failures = [each.at for each in told.values() if each.exit_code]
            failures += [end.at for end in ends.values()]
            around = Circumstances(
                min(failures, default=0.0), self.signals.stop is not None, self._overdue, oom_killed
            )
            decided = gravest(settle(rank, told.get(rank), ends.get(rank), around) for rank in self._ranks)
        elif told.keys() >= set(self._ranks) and self._ended_before_launcher(told):
            decided = gravest(told.values())
        elif not told and self.signals.stop is not None and not self._overdue:
            return self._stopped_early()
        else:
            decided = gravest([*told.values(), self._launcher_end(launcher_status, error, oom_killed)])
        return Verdict(decided, self._has_said(decided, told), self._last_lines(decided, told))

    def _ended_before_launcher(self, told: Mapping[int, RankOutcome]) -> bool:
        """Whether the end of the launcher cannot be what the ranks ended of."""
        return self.signals.stop is not None or all(each.exit_code == 0 for each in told.values())

    def _stopped_early(self) -> Verdict:
        message = f"stopped by {self.signals.stop} before the training had begun"
        return Verdict(RankOutcome(LAUNCHER, PreemptedError.exit_code, message), shown=False)

    def _launcher_end(self, status: int, error: str | None, oom_killed: bool) -> RankOutcome:
        at = time.time()
        if self._overdue:
            message = "the ranks did not end in the grace that they had and were killed"
            return RankOutcome(LAUNCHER, BugError.exit_code, message, at=at)
        if error is not None and self.nodes.count > 1:
            message = f"the {self.nodes.count} nodes of this run did not find, or lost, one another: {error}"
            return RankOutcome(LAUNCHER, UnavailableError.exit_code, message, at=at)
        if status == -signal.SIGKILL and oom_killed:
            message = "the launcher was killed by the system: the host is out of memory"
            return RankOutcome(LAUNCHER, MemoryExceededError.exit_code, message, at=at)
        how = error or (f"died of {signal_name(-status)}" if status < 0 else f"ended with {status}")
        return RankOutcome(LAUNCHER, BugError.exit_code, f"the launcher of the ranks failed: {how}", at=at)

    def _has_said(self, decided: RankOutcome, told: Mapping[int, RankOutcome]) -> bool:
        return decided.exit_code == 0 or (
            decided.rank == self._ranks[0] and told.get(decided.rank) == decided
        )

    def _last_lines(self, decided: RankOutcome, told: Mapping[int, RankOutcome]) -> tuple[str, ...]:
        """Not for what a rank explained by a sentence, unless that is about a bug."""
        if decided.rank == LAUNCHER:
            log = self.folder / launch.LOG
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        elif told.get(decided.rank) == decided and decided.exit_code != BugError.exit_code:
            lines = []
        else:
            lines = list(self._printed.get(decided.rank - self._ranks[0], ()))
        return tuple(line for line in lines if line.strip())[-LAST_LINES:]
