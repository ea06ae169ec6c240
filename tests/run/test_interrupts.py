"""Interrupts that are held while processes are looked after: none is lost, and none comes at a bad moment."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packtrain.run import interrupts
from packtrain.run.strike import Moment, clean_environment, started, strike
from packtrain.rundir import RunDir

BOTH = pytest.mark.parametrize("number", interrupts.HELD, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def interrupting() -> Iterator[None]:
    """As the command line has it where it starts processes."""
    old = [(number, signal.signal(number, signal.default_int_handler)) for number in interrupts.HELD]
    yield
    for number, handler in old:
        signal.signal(number, handler)


@BOTH
def test_it_comes_where_it_is_asked_for(number: signal.Signals) -> None:
    with interrupts.held() as check:
        check()
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            check()
        check()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


@BOTH
def test_one_that_nobody_asked_for_comes_at_the_end(number: signal.Signals) -> None:
    after = False
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        signal.raise_signal(number)
        signal.raise_signal(number)
        after = True
    assert after


def test_an_error_inside_is_the_one_that_is_told() -> None:
    with pytest.raises(ValueError, match="inside"), interrupts.held():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.held() as check:
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.raise_signal(signal.SIGINT)
        check()


def test_another_thread_holds_nothing() -> None:
    seen: list[Any] = []

    def look() -> None:
        with interrupts.held() as check:
            seen.append(signal.getsignal(signal.SIGINT))
            check()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


class InterruptingLock:
    """As ``Popen`` uses it; a signal is there in the moment in which it was taken."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.calls = 0

    def acquire(self, *arguments: Any) -> bool:
        got: bool = self.lock.acquire(*arguments)
        self.calls += 1
        if self.calls == 3:
            signal.raise_signal(signal.SIGINT)
        return got

    def release(self) -> None:
        self.lock.release()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class TestAStartedRun:
    """Of a command that would last for ten minutes."""

    @pytest.fixture
    def processes(self, monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
        made: list[subprocess.Popen[bytes]] = []

        class Noted(subprocess.Popen):  # type: ignore[type-arg]
            interrupt = False

            def __init__(self, _command: list[str], **settings: Any) -> None:
                super().__init__(["sleep", "600"], **settings)
                made.append(self)
                if self.interrupt:
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(subprocess, "Popen", Noted)
        return made

    def test_a_process_that_was_just_made_is_not_forgotten(
        self, tmp_path: Path, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subprocess.Popen, "interrupt", True)
        begun = started([], RunDir(tmp_path), tmp_path / "log", clean_environment())
        with pytest.raises(KeyboardInterrupt), begun as run:
            run.wait(time.monotonic() + 60)
        assert processes[0].returncode == -signal.SIGKILL

    @pytest.mark.timeout(30)
    def test_a_lock_that_was_just_taken_is_given_back(
        self, tmp_path: Path, processes: list[subprocess.Popen[bytes]]
    ) -> None:
        begun = started([], RunDir(tmp_path), tmp_path / "log", clean_environment())
        with pytest.raises(KeyboardInterrupt), begun as run:
            lock = InterruptingLock(run.process._waitpid_lock)  # type: ignore[attr-defined]
            run.process._waitpid_lock = lock  # type: ignore[attr-defined]
            run.wait(time.monotonic() + 60)
        assert lock.calls >= 3
        assert processes[0].returncode == -signal.SIGKILL

    @pytest.mark.parametrize("delay", [0.0, 600.0])
    @pytest.mark.usefixtures("processes")
    def test_waiting_for_a_moment_can_be_interrupted(self, tmp_path: Path, delay: float) -> None:
        def reached(_run: object) -> bool:
            signal.raise_signal(signal.SIGTERM)
            return delay > 0

        begun = started([], RunDir(tmp_path), tmp_path / "log", clean_environment())
        with pytest.raises(KeyboardInterrupt), begun as run:
            strike(run, Moment("far", reached, delay), signal.SIGKILL, "leader", time.monotonic() + 60)

    @pytest.mark.usefixtures("processes")
    def test_a_time_that_is_over(self, tmp_path: Path) -> None:
        begun = started([], RunDir(tmp_path), tmp_path / "log", clean_environment())
        with pytest.raises(TimeoutError), begun as run:
            run.wait(time.monotonic())
