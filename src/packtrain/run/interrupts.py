"""Ctrl-C and SIGTERM while other processes are being looked after: never between two instructions."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Signals raise KeyboardInterrupt only where the yielded function is called, or at the end.

    A handler's exception may come between any two instructions of the main thread. In the midst of
    ``subprocess.Popen`` the process has been started and nobody knows of it; between the taking of the
    lock of ``Popen.wait`` and its ``try`` nobody gives the lock back, and the next wait lasts for ever.
    Whoever waits inside polls, and asks at each look.

    What is ignored, or ends the process at once, stays so. In another thread nothing can be raised, and
    nothing is held.
    """
    noted: list[int] = []
    old: dict[signal.Signals, Any] = {}

    def note(number: int, _frame: object) -> None:
        noted.append(number)

    def check() -> None:
        if noted:
            noted.clear()
            raise KeyboardInterrupt

    try:
        if threading.current_thread() is threading.main_thread():
            for number in HELD:
                handler = signal.getsignal(number)
                if callable(handler):
                    old[number] = handler
                    signal.signal(number, note)
        yield check
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    check()
