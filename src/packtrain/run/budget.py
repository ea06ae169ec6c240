"""What a run has cost, over all its attempts, and the stop when that is ``cluster.max_cost``.

Node 0's supervisor writes how long its attempt has had the nodes to an object of its own beside the
run's checkpoints, every some seconds, so that a kill loses no more than these; all objects together
are the run's cost. The time is counted from when the node was the pod's (``node_time.py``), with the
image's pull and mostly the node's boot. The bucket being away ends nothing: this attempt's own time is
counted on, and the rest is read when the bucket is back.
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from packtrain.errors import GateError, PacktrainError, PreemptedError, UnavailableError
from packtrain.run.outcome import RankOutcome
from packtrain.rundir import timestamp
from packtrain.storage import Storage

ROOT = "cost/"
#: Seconds between two entries in the bucket.
EVERY = 30.0
#: And after one that failed.
AGAIN = 5.0


@dataclass(frozen=True)
class Rate:
    """What a run's nodes cost together."""

    machine: str
    capacity: str
    nodes: int
    usd_per_hour: float
    """Of one node."""

    def usd(self, seconds: float) -> float:
        return self.nodes * self.usd_per_hour * seconds / 3600

    def seconds(self, usd: float) -> float:
        return 3600 * usd / (self.nodes * self.usd_per_hour)


@dataclass(frozen=True)
class Entry:
    """One attempt, as its object in the bucket says."""

    started: str
    seconds: float
    rate: Rate

    @property
    def usd(self) -> float:
        return self.rate.usd(self.seconds)

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self) | {"usd": round(self.usd, 4)}, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Entry:
        fields = json.loads(data)
        return cls(str(fields["started"]), float(fields["seconds"]), Rate(**fields["rate"]))


def read_entries(ledger: Storage, *, without: str | None = None) -> list[Entry]:
    """Of all attempts, in order; ``without``: the name of one's own. What is no entry is passed over.

    Errors: those of :class:`Storage`.
    """
    entries = []
    for info in ledger.list(ROOT):
        if info.name != without:
            with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                entries.append(Entry.from_json(ledger.read(info.name)))
    return entries


def total_usd(entries: Iterable[Entry]) -> float:
    return sum(entry.usd for entry in entries)


class Budget:
    """Watches one run's cost. ``leads``: this node writes the entries and calls for the stop."""

    def __init__(
        self,
        ledger: Storage,
        rate: Rate,
        limit: float,
        *,
        leads: bool,
        before: float = 0.0,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``limit`` in USD; ``before``: seconds for which this attempt has had the nodes already."""
        self.ledger, self.rate, self.limit, self.leads = ledger, rate, limit, leads
        self._every, self._clock, self._begun = every, clock, clock() - before
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self._name = f"{ROOT}{now}-{uuid.uuid4().hex[:8]}.json"
        self._started = timestamp(time.time() - before)
        self._others: float | None = None
        self._ended = threading.Event()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    def spent(self) -> float:
        """USD, by what is known now."""
        own = self.rate.usd(self._clock() - self._begun) if self.leads else 0.0
        return (self._others or 0.0) + own

    @property
    def is_spent(self) -> bool:
        return self.spent() >= self.limit

    def look(self) -> None:
        """Read what the other attempts (for a node that does not lead: all) have cost.

        Errors: those of :class:`Storage`.
        """
        entries = read_entries(self.ledger, without=self._name if self.leads else None)
        self._others = total_usd(entries)

    def check(self) -> None:
        """Before anything is started. Errors: :class:`GateError` where nothing is left.

        A bucket that does not answer lets the run begin: it is asked again.
        """
        with suppress(PacktrainError, OSError):
            self.look()
        if self.is_spent:
            raise GateError(self.sentence(), hint=_HINT)

    def sentence(self) -> str:
        rate = self.rate
        nodes = f"{rate.nodes} × {rate.machine}" if rate.nodes > 1 else rate.machine
        return (
            f"the budget is spent: {self.spent():.2f} USD, and cluster.max_cost is {self.limit:g} USD "
            f"({nodes}, {rate.capacity}, at {rate.usd_per_hour:g} USD an hour for a node)"
        )

    def amend(self, outcome: RankOutcome) -> RankOutcome:
        """The outcome of a node whose ranks were stopped, or lost a peer, for the budget is spent: 76."""
        if outcome.exit_code not in (PreemptedError.exit_code, UnavailableError.exit_code):
            return outcome
        if not self.leads:
            _within(10.0, self.look)
        if not self.is_spent:
            return outcome
        return replace(outcome, rank=-1, exit_code=GateError.exit_code, message=self.sentence(), hint=_HINT)

    def record(self) -> None:
        """Write this attempt's entry. Errors: those of :class:`Storage`."""
        with self._mutex:
            # Rounded up: who reads it must not find less than what called for the stop.
            seconds = math.ceil((self._clock() - self._begun) * 1000) / 1000
            entry = Entry(self._started, seconds, self.rate)
            self.ledger.write(self._name, entry.to_json())

    def watch(self, stop: Callable[[], None]) -> None:
        """Begin to write entries, in a thread that calls ``stop`` once when the budget is spent."""
        if self.leads:
            self._thread = threading.Thread(
                target=self._watch, args=(stop,), name="packtrain-budget", daemon=True
            )
            self._thread.start()

    def _watch(self, stop: Callable[[], None]) -> None:
        called = False
        while True:
            if self.is_spent and not called:
                called = True
                stop()
            try:
                if self._others is None:
                    self.look()
                # After the stop too: that is how the other nodes know why they ended.
                self.record()
                pause = self._every
            except (PacktrainError, OSError):  # the bucket is away
                pause = min(self._every, AGAIN)
            if not called:
                pause = min(pause, max(self.rate.seconds(self.limit - self.spent()), 0.05))
            if self._ended.wait(pause):
                return

    def close(self, timeout: float) -> None:
        """The last entry, within ``timeout`` seconds."""
        self._ended.set()
        if self._thread is not None:
            _within(timeout, self.record)


_HINT = "raise cluster.max_cost; the same command then goes on from the last checkpoint"


def _within(timeout: float, work: Callable[[], None]) -> None:
    """Do what may fail, and no longer than so: what is late is left behind."""

    def quietly() -> None:
        with suppress(PacktrainError, OSError):
            work()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(timeout)
