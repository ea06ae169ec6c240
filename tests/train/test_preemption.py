"""Stop requests, by real signals to this process."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import pytest

from packtrain.errors import PreemptedError
from packtrain.train.preemption import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_raised_where_nothing_can_be_lost(number: signal.Signals) -> None:
    stop = StopRequest()
    # A library that turns errors that it does not know into others, or tries again, does not see it.
    with pytest.raises(PreemptedError, match=f"stopped by {number.name}"), stop, suppress(Exception):
        os.kill(os.getpid(), number)
    assert stop.requested


class Dying:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_while_an_object_dies_is_seen_at_the_next_check(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.unraisablehook
    with pytest.raises(PreemptedError), StopRequest() as stop:
        Dying()
        assert stop.requested
        stop.check()
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook == before


def test_a_signal_is_only_noted_inside_deferred() -> None:
    after = []
    with pytest.raises(PreemptedError), StopRequest() as stop:
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
            after.append("inside")
        after.append("outside")
    assert after == ["inside"]


def test_nothing_stops_a_run_that_is_ending() -> None:
    with StopRequest() as stop:
        stop.ignore()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_a_second_interrupt_ends_at_once() -> None:
    with pytest.raises(PreemptedError), StopRequest() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
