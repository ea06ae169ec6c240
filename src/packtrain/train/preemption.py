"""A request to stop (SIGTERM, SIGINT), seen at once or at the next safe point.

While nothing can be lost (start-up, loading, data, publishing) the request is raised where the
program stands, as a :class:`StopNow`, and leaves :class:`StopRequest` as a ``PreemptedError``.
Inside :meth:`StopRequest.deferred` it is only noted, so that the training loop can end its step and
save. A second Ctrl-C always ends at once.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from packtrain.errors import PacktrainError, PreemptedError, UnavailableError


class StopNow(BaseException):
    """A stop that was asked for, on its way out.

    No ``Exception``, as ``KeyboardInterrupt`` is none: libraries turn those into others (an import that
    failed) or try again.
    """


class StopRequest:
    """Installs handlers for SIGTERM and SIGINT while it is entered; the old ones come back."""

    def __init__(self, is_preemption: Callable[[], bool] = lambda: True) -> None:
        """``is_preemption()``: False where a SIGTERM comes from a launcher because another rank died."""
        self._is_preemption = is_preemption
        self._lost_peer = False
        self._event = threading.Event()
        self._deferred = 0
        self._interrupts = 0
        self._old: dict[int, Any] = {}
        self._old_hook = sys.unraisablehook
        self.signal: str | None = None
        self.requested_at: float | None = None
        """When the first request came, by the monotonic clock."""

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise :class:`StopNow` if a stop was asked for."""
        if self.requested:
            raise StopNow

    def error(self) -> PacktrainError:
        if self._lost_peer:
            return UnavailableError(
                "ended, because another rank did", hint="the same command goes on from the last checkpoint"
            )
        return PreemptedError(f"stopped by {self.signal}", hint="the same command goes on from there")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a request; whoever is inside asks :attr:`requested` and saves.

        One that came too late to be seen inside is raised at the end.
        """
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        self.check()

    def ignore(self) -> None:
        """From now on only note requests: the run is ending, and nothing may stop it half-way."""
        self._deferred += 1

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self.requested_at = self.requested_at or time.monotonic()
        self._event.set()
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if number == signal.SIGTERM and not self._is_preemption():
            # Saving needs the rank that is gone: nothing is left to do here.
            self._lost_peer = True
            self.check()
        if not self._deferred:
            self.check()

    def _unraisable(self, ignored: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a ``__del__``: then the next :meth:`check` stops the run."""
        if not isinstance(ignored.exc_value, StopNow):
            self._old_hook(ignored)

    def __enter__(self) -> StopRequest:
        self._old_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old.clear()
        sys.unraisablehook = self._old_hook
        if isinstance(error, StopNow):
            raise self.error() from error
