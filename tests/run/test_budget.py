"""What a run has cost over its attempts, and the stop at ``cluster.max_cost``."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from packtrain.errors import GateError, UnavailableError
from packtrain.run.budget import Budget, Entry, Rate, read_entries, total_usd
from packtrain.run.outcome import RankOutcome
from packtrain.storage import open_storage
from packtrain.storage.base import ObjectInfo, Storage
from packtrain.storage.local import LocalStorage

#: One USD a second, all nodes together.
RATE = Rate("test-machine", "spot", 2, 1800.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Away(LocalStorage):
    """A bucket that answers when it is told to."""

    away = True

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        self._ask()
        return super().list(prefix)

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> ObjectInfo:
        self._ask()
        return super().write(name, data, if_generation=if_generation)

    def _ask(self) -> None:
        if self.away:
            raise UnavailableError("gone")


@pytest.fixture
def ledger(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "run")


def budget(ledger: Storage, limit: float, clock: Clock, *, leads: bool = True) -> Budget:
    return Budget(ledger, RATE, limit, leads=leads, every=0.02, clock=clock)


def attempt(ledger: Storage, seconds: float) -> None:
    """One that came before."""
    clock = Clock()
    one = budget(ledger, 1e6, clock)
    clock.now += seconds
    one.record()


def until(true: threading.Event | object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not (true.is_set() if isinstance(true, threading.Event) else true()):  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_rate_is_that_of_all_nodes() -> None:
    assert RATE.usd(10) == pytest.approx(10)
    assert RATE.seconds(RATE.usd(7)) == pytest.approx(7)


def test_all_attempts_count_and_each_once(ledger: Storage) -> None:
    attempt(ledger, 10)
    attempt(ledger, 5)
    clock = Clock()
    third = budget(ledger, 100, clock)
    third.check()
    clock.now += 2
    third.record()
    third.record()
    third.look()
    assert third.spent() == pytest.approx(17)
    entries = read_entries(ledger)
    assert total_usd(entries) == pytest.approx(17)
    assert [entry.rate for entry in entries] == [RATE] * 3


def test_a_price_that_changed_holds_for_its_attempt_alone(ledger: Storage) -> None:
    ledger.write("cost/old.json", Entry("then", 3600, Rate("other", "on-demand", 1, 7.0)).to_json())
    attempt(ledger, 10)
    assert total_usd(read_entries(ledger)) == pytest.approx(17)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"seconds": 4}', b'{"started": "", "seconds": "x"}'])
def test_what_is_no_entry_is_passed_over(ledger: Storage, content: bytes) -> None:
    ledger.write("cost/bad.json", content)
    attempt(ledger, 3)
    assert total_usd(read_entries(ledger)) == pytest.approx(3)


def test_a_spent_budget_starts_nothing_and_says_what_to_do(ledger: Storage) -> None:
    attempt(ledger, 20.5)
    with pytest.raises(GateError, match=r"20\.50 USD, and cluster\.max_cost is 20 USD") as error:
        budget(ledger, 20, Clock()).check()
    assert "raise cluster.max_cost" in str(error.value.hint)
    budget(ledger, 21, Clock()).check()


def test_the_stop_comes_once_when_the_rest_is_used_up(ledger: Storage) -> None:
    attempt(ledger, 6)
    clock, stops = Clock(), []
    one = budget(ledger, 10, clock)
    one.check()
    one.watch(lambda: stops.append(one.spent()))
    until(lambda: len(read_entries(ledger)) == 2)
    clock.now += 3.9
    time.sleep(0.1)
    assert stops == []
    clock.now += 0.2
    until(lambda: stops)
    until(lambda: total_usd(read_entries(ledger)) >= 10)
    clock.now += 1
    one.close(5)
    assert len(stops) == 1
    assert total_usd(read_entries(ledger)) == pytest.approx(11.1, abs=0.01)


def test_a_bucket_that_is_away_does_not_hinder_the_stop(tmp_path: Path) -> None:
    ledger = Away(tmp_path)
    clock, stopped = Clock(), threading.Event()
    one = budget(ledger, 10, clock)
    one.check()
    one.watch(stopped.set)
    clock.now += 11
    until(stopped)
    assert not list(tmp_path.iterdir())
    ledger.away = False
    until(lambda: read_entries(ledger) != [])
    one.close(5)


def test_what_earlier_attempts_cost_is_read_when_the_bucket_is_back(tmp_path: Path) -> None:
    ledger = Away(tmp_path)
    attempt(open_storage(tmp_path), 50)
    stopped = threading.Event()
    one = budget(ledger, 40, Clock())
    one.check()
    one.watch(stopped.set)
    assert not stopped.wait(0.1)
    ledger.away = False
    until(stopped)
    one.close(5)


def test_an_end_does_not_wait_for_a_bucket_that_hangs(tmp_path: Path) -> None:
    hanging = threading.Event()

    class Hanging(LocalStorage):
        def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> ObjectInfo:
            hanging.wait(60)
            return super().write(name, data, if_generation=if_generation)

    one = budget(Hanging(tmp_path), 10, Clock())
    one.watch(lambda: None)
    begun = time.monotonic()
    one.close(0.2)
    assert time.monotonic() - begun < 30
    hanging.set()


@pytest.mark.parametrize(
    ("exit_code", "spent", "amended"),
    [(75, True, 76), (69, True, 76), (75, False, 75), (0, True, 0), (65, True, 65), (70, True, 70)],
)
@pytest.mark.parametrize("leads", [True, False])
def test_only_a_stop_becomes_a_gate_that_failed(
    ledger: Storage, exit_code: int, spent: bool, amended: int, leads: bool
) -> None:
    attempt(ledger, 30)
    one = budget(ledger, 20 if spent else 40, Clock(), leads=leads)
    if leads:
        one.look()
    ended = one.amend(RankOutcome(3, exit_code, "as it was"))
    assert ended.exit_code == amended
    if amended == 76:
        assert "30.00 USD" in ended.message and "raise cluster.max_cost" in str(ended.hint)
    else:
        assert ended.message == "as it was"


def test_a_node_that_does_not_lead_writes_nothing(ledger: Storage) -> None:
    one = budget(ledger, 10, Clock(), leads=False)
    one.check()
    one.watch(lambda: pytest.fail("it does not lead"))
    one.close(1)
    assert read_entries(ledger) == []


def test_an_entry_says_in_usd_what_it_stands_for(ledger: Storage) -> None:
    attempt(ledger, 12)
    [info] = ledger.list("cost/")
    assert json.loads(ledger.read(info.name))["usd"] == 12.0
