"""The signals that a supervisor gets: noted, and seen at once by whoever waits on a descriptor."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any

#: SIGHUP: the terminal was closed. SIGQUIT: how some container runtimes stop.
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Signals:
    """Installs handlers in the main thread while it is entered; the old ones come back.

    What was ignored stays ignored (``nohup``, background jobs of a shell). ``last``: nothing but the
    process's end comes after it, which further stops must not turn into a death by signal.
    """

    def __init__(self, *, last: bool = False) -> None:
        self._last = last
        self.stop: str | None = None
        """The first signal that asked to stop."""
        self.asked_at = 0.0
        """When that was, by the monotonic clock."""
        self.interrupts = 0
        """How often SIGINT came."""
        self.descriptor = -1
        """Becomes readable with every signal, the end of a child too."""
        self._old: dict[int, Any] = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number in STOPS:
            self._ask(signal.Signals(number).name)
            self.interrupts += number == signal.SIGINT

    def _ask(self, why: str) -> None:
        if self.stop is None:
            self.stop, self.asked_at = why, time.monotonic()

    def request(self, why: str) -> None:
        """Ask for a stop without a signal; in any thread."""
        self._ask(why)
        with suppress(OSError):
            os.write(self._wake, b"\0")

    def drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self.descriptor, 512):
                pass

    def wait_for_stop(self, seconds: float) -> None:
        """Returns when a stop was asked for, or after ``seconds``."""
        until = time.monotonic() + seconds
        while self.stop is None and (left := until - time.monotonic()) > 0:
            select.select([self.descriptor], [], [], left)
            self.drain()

    def __enter__(self) -> Signals:
        self.descriptor, self._wake = os.pipe()
        for end in (self.descriptor, self._wake):
            os.set_blocking(end, False)
        self._old_wake = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (*STOPS, signal.SIGCHLD):
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, signal.SIG_IGN if self._last and number in STOPS else old)
        signal.set_wakeup_fd(self._old_wake)
        os.close(self.descriptor)
        os.close(self._wake)
