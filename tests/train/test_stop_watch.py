"""A process whose main thread is in a long call of C code: the stop is seen at once, and has an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from packtrain.train.preemption import StopRequest

SRC = Path(__file__).parents[2] / "src"
#: PBKDF2 lets other threads run, comes back to no Python code, and takes minutes.
STUCK = """
import hashlib, sys
from packtrain.train.preemption import StopRequest
with StopRequest(**{arguments}) as stop, {inside}:
    stop.on_overdue = lambda error: print("told:", error, flush=True)
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"p", b"s", 2_000_000_000)
    print("seen", stop.requested, stop.requested_at is not None, flush=True)
"""


def stuck(arguments: str, inside: str = "stop.deferred()") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(arguments=arguments, inside=inside)],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)  # for the call to have begun
    return process


def test_what_does_not_come_back_in_the_grace_is_ended() -> None:
    with stuck("dict(grace=1.0)") as process:
        process.terminate()
        out, err = process.communicate(timeout=120)
    message = "stopped by SIGTERM, and not done within 1 s: ended without saving"
    assert (process.returncode, out) == (75, f"told: {message}\n")
    assert err.splitlines() == [
        f"error: {message}",
        "hint: the same command goes on from the last checkpoint; checkpoint.grace is the time for a stop",
    ]


def test_what_has_saved_and_is_cut_off_after_that_says_that_it_is_saved() -> None:
    """Such as while it copies to a bucket that is away; and what tells of it may fail."""
    command = """
import time
from packtrain.errors import PreemptedError
from packtrain.train.preemption import StopRequest
with StopRequest(grace=1.0) as stop, stop.deferred():
    stop.on_overdue = lambda error: 1 / 0
    stop.answer = PreemptedError("stopped after step 3", hint="what was done is saved")
    print("ready", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen(
        [sys.executable, "-c", command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert err.splitlines() == ["error: stopped after step 3", "hint: what was done is saved"]


@pytest.mark.slow
def test_where_nothing_can_be_lost_it_is_not_waited_for() -> None:
    """Such as for a peer that has ended already, when processes meet."""
    with stuck("dict(grace=3600.0)", inside="open('/dev/null')") as process:
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "stopped by SIGTERM, and not done within 5 s: ended with nothing to save" in err


@pytest.mark.slow
def test_what_is_saving_has_all_of_its_grace() -> None:
    with stuck("dict(grace=3600.0)") as process:
        process.terminate()
        time.sleep(7)
        assert process.poll() is None
        process.kill()
        process.communicate()


def test_a_peer_that_is_lost_sets_no_deadline_and_neither_does_ctrl_c() -> None:
    for number, arguments in (
        (signal.SIGTERM, "dict(grace=0.01, is_preemption=lambda: False)"),
        (signal.SIGINT, "dict(grace=0.01)"),
    ):
        with stuck(arguments) as process:
            process.send_signal(number)
            time.sleep(0.5)
            assert process.poll() is None
            process.kill()
            process.communicate()


def test_the_time_of_a_request_is_known_before_the_main_thread_comes_back() -> None:
    stop = StopRequest()
    with stop, stop.deferred():
        begun = time.monotonic()
        # Until the watching thread has seen it: the main one looks at no bytecode of ours meanwhile.
        signal.pthread_kill(stop._watch._thread.ident, signal.SIGINT)  # type: ignore[union-attr, arg-type]
        while stop.requested_at is None:
            assert time.monotonic() < begun + 30
            time.sleep(0.001)
        assert begun <= stop.requested_at <= time.monotonic()
        stop._event.clear()


def descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_no_thread_and_no_descriptor_stay() -> None:
    before = descriptors()
    for _ in range(3):
        with StopRequest():
            pass
    assert signal.set_wakeup_fd(-1) == -1
    assert descriptors() == before
