"""What ranks write at their end, and what their ends add up to."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from packtrain.errors import ALL
from packtrain.run.outcome import (
    FOLDER,
    Circumstances,
    ProcessEnd,
    RankOutcome,
    gravest,
    gravity,
    is_preemption,
    read_outcomes,
    request_stop,
    settle,
    write_outcome,
)

CALM = Circumstances(first_failure=100.0)


def test_without_a_supervisor_nothing_is_written_and_a_signal_is_a_preemption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    write_outcome(75, "stopped")
    assert list(tmp_path.iterdir()) == []
    assert is_preemption()


def test_what_a_rank_writes_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    write_outcome(77, "the token is 잘못", hint="get another")
    monkeypatch.setenv("RANK", "11")
    write_outcome(0, "done")
    told = read_outcomes(tmp_path)
    assert told.keys() == {3, 11}
    assert (told[3].exit_code, told[3].message, told[3].hint) == (77, "the token is 잘못", "get another")
    assert told[3].at <= told[11].at
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-11.json", "rank-3.json"]
    assert json.loads((tmp_path / "rank-3.json").read_bytes())["rank"] == 3


def test_an_outcome_that_cannot_be_written_leaves_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv(FOLDER, str(blocked))
    write_outcome(74, "the disk is full")
    assert blocked.read_bytes() == b""


def test_a_signal_is_a_preemption_only_after_the_supervisor_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert not is_preemption()
    request_stop(tmp_path)
    assert is_preemption()
    assert read_outcomes(tmp_path) == {}


def test_the_order_of_exit_codes() -> None:
    order = sorted([0, *(kind.exit_code for kind in ALL)], key=gravity)
    assert order[:5] == [0, 75, 69, 74, 70]
    assert set(order[5:]) == {2, 65, 71, 73, 76, 77, 78, 79}
    assert {gravity(code) for code in order[5:]} == {5}
    assert gravity(1) == gravity(139) == gravity(70)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0, 0], 0),
        ([0, 75], 75),
        ([75, 69, 75], 69),
        ([69, 74, 69], 74),
        ([69, 70, 74], 70),
        ([70, 65, 69], 65),
        ([78, 78], 78),
        ([0, 79], 79),
    ],
)
def test_the_gravest_counts_in_whatever_order_they_come(codes: list[int], expected: int) -> None:
    outcomes = [RankOutcome(rank, code, f"code {code}", at=float(rank)) for rank, code in enumerate(codes)]
    for seed in range(5):
        random.Random(seed).shuffle(outcomes)
        assert gravest(outcomes).exit_code == expected


def test_of_two_causes_the_earlier_counts_and_of_two_that_say_the_same_the_first_rank() -> None:
    late = RankOutcome(0, 65, "bad row", at=9.0)
    early = RankOutcome(1, 71, "out of memory", at=8.0)
    assert gravest([late, early]) is early
    same = RankOutcome(0, 71, "out of memory", at=8.5)
    assert gravest([early, same]) is same


@pytest.mark.parametrize(
    ("status", "around", "code", "message"),
    [
        (78, CALM, 78, "rank 1 ended with exit code 78"),
        (1, CALM, 70, "rank 1 ended with exit code 1"),
        (-signal.SIGSEGV, CALM, 70, "rank 1 died of SIGSEGV"),
        (-99, CALM, 70, "rank 1 died of signal 99"),
        (-signal.SIGKILL, CALM, 70, "rank 1 died of SIGKILL"),
        (-signal.SIGKILL, Circumstances(100.0, oom_killed=True), 71, "the host is out of memory"),
        (-signal.SIGKILL, Circumstances(70.0, oom_killed=True), 69, "did not end after another one had"),
        (-signal.SIGKILL, Circumstances(70.0), 69, "did not end after another one had"),
        (-signal.SIGKILL, Circumstances(70.0, stopping=True), 75, "did not end after another one had"),
        (-signal.SIGKILL, Circumstances(70.0, stopping=True, overdue=True), 70, "did not end in the grace"),
        (-signal.SIGSEGV, Circumstances(100.0, oom_killed=True), 70, "SIGSEGV"),
        (-signal.SIGTERM, CALM, 69, "was terminated"),
        (-signal.SIGTERM, Circumstances(100.0, stopping=True), 75, "stopped before it had begun"),
    ],
)
def test_a_rank_that_said_nothing(status: int, around: Circumstances, code: int, message: str) -> None:
    ended = settle(1, None, ProcessEnd(status, 100.0), around)
    assert (ended.rank, ended.exit_code, ended.at) == (1, code, 100.0)
    assert message in ended.message


def test_a_rank_that_spoke() -> None:
    failed = RankOutcome(1, 74, "the disk is full", at=99.0)
    assert settle(1, failed, ProcessEnd(-signal.SIGKILL, 140.0), CALM) is failed
    done = RankOutcome(1, 0, "done", at=99.0)
    assert settle(1, done, None, CALM) is done
    assert settle(1, done, ProcessEnd(-signal.SIGSEGV, 100.0), CALM).exit_code == 70
    assert settle(1, None, None, CALM).exit_code == 0
