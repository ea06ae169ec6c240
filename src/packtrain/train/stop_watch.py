"""Sees a signal at the moment that it comes, and ends a process that is not done when its grace is over.

Python runs its own handlers in the main thread, between two bytecodes: not while that thread is in a
long call of C++ code. What writes to a descriptor is the system's own handler, and a thread reads it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable


class StopWatch:
    """A daemon thread while it is entered, in the main thread. Signals need a handler in Python, too.

    ``on_signal(number)`` is called in the thread, and gives the seconds until ``on_overdue()`` is to be
    called there, or None for never; that one gives the seconds until it is to be called again.
    """

    def __init__(
        self, on_signal: Callable[[int], float | None], on_overdue: Callable[[], float | None]
    ) -> None:
        self._on_signal, self._on_overdue = on_signal, on_overdue
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._old = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="packtrain-stop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            signal.set_wakeup_fd(self._old)
            os.close(self._write)  # the thread reads the end
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        until: float | None = None
        try:
            while True:
                left = None if until is None else max(0.0, until - time.monotonic())
                if select.select([self._read], [], [], left)[0]:
                    numbers = os.read(self._read, 512)
                    if not numbers:
                        return
                    for number in numbers:
                        seconds = self._on_signal(number)
                        if seconds is not None and until is None:
                            until = time.monotonic() + seconds
                else:
                    more = self._on_overdue()
                    until = None if more is None else time.monotonic() + more
        finally:
            os.close(self._read)
