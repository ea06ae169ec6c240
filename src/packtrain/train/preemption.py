"""A request to stop (SIGTERM, SIGINT, SIGHUP), seen at once or at the next safe point.

While nothing can be lost (start-up, loading, data, publishing) the request is raised where the
program stands, as a :class:`StopNow`, and leaves :class:`StopRequest` as a ``PreemptedError``.
Inside :meth:`StopRequest.deferred` it is only noted, so that the training loop can end its step and
save. A second Ctrl-C always ends at once. What has not ended when the grace of a SIGTERM is nearly
over, in whatever it is stuck, is ended without saving: SIGKILL would come next, and say nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from packtrain.errors import PacktrainError, PreemptedError, UnavailableError
from packtrain.train.stop_watch import StopWatch

#: Seconds that a call has to come back in which nothing can be lost: it may wait for a peer that has
#: ended already.
NOTHING_TO_LOSE = 5.0
#: Share of the grace after which a process that has not ended is.
LAST_MOMENT = 0.95
NOTHING_LOST = "the same command goes on from there"
NOT_SAVED = "the same command goes on from the last checkpoint; checkpoint.grace is the time for a stop"
#: SIGHUP: the terminal was closed.
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: So many Ctrl-C end without any tidying up.
IMPATIENT = 4


class StopNow(BaseException):
    """A stop that was asked for, on its way out.

    No ``Exception``, as ``KeyboardInterrupt`` is none: libraries turn those into others (an import that
    failed) or try again.
    """


class StopRequest:
    """Installs handlers for :data:`STOPS` while it is entered; the old ones come back."""

    def __init__(
        self,
        is_preemption: Callable[[], bool] = lambda: True,
        *,
        grace: float = 15.0,
        guest: bool = False,
    ) -> None:
        """``is_preemption()``: False where a SIGTERM comes from a launcher because another rank died.
        ``guest``: the process is somebody else's (a notebook), and never ended from here.
        """
        self._guest = guest
        self.grace = grace
        """Seconds from SIGTERM to SIGKILL."""
        self.on_overdue: Callable[[PreemptedError], None] = lambda error: None
        """Called, in another thread, with what is to be told of a process that does not end by itself."""
        self.answer: PreemptedError | None = None
        """What is to be told once all is saved: what is left to do then (copying) may be cut off."""
        self._watch = StopWatch(self._seen, self._end_now)
        self._is_preemption = is_preemption
        self._lost_peer = False
        self._event = threading.Event()
        self._deferred = 0
        self._interrupts = 0
        self._raised = False
        self._old: dict[int, Any] = {}
        self._old_hook = sys.unraisablehook
        self.signal: str | None = None
        self.requested_at: float | None = None
        """When the first request came, by the monotonic clock; known before the main thread sees it."""

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
        return PreemptedError(f"stopped by {self.signal}", hint=NOTHING_LOST)

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
            if self._interrupts >= IMPATIENT and self._guest:
                raise KeyboardInterrupt
            if self._interrupts >= IMPATIENT:
                os._exit(128 + signal.SIGINT)
            if self._interrupts > 2:
                return  # the second is on its way out, and leaves things tidy
            if self._interrupts == 2:
                raise KeyboardInterrupt
        if number == signal.SIGTERM and not self._is_preemption():
            # Saving needs the rank that is gone: nothing is left to do here.
            self._lost_peer = True
            self._raise_once()
        if not self._deferred:
            self._raise_once()

    def _raise_once(self) -> None:
        """A second signal must not interrupt what the first one's way out has to tidy up."""
        if not self._raised:
            self._raised = True
            raise StopNow

    def _seen(self, number: int) -> float | None:
        """In the watching thread: when a request came, and how long it may take."""
        self.requested_at = self.requested_at or time.monotonic()
        if self._guest or number != signal.SIGTERM or not self._is_preemption():
            return None
        return min(NOTHING_TO_LOSE, LAST_MOMENT * self.grace)

    def _end_now(self) -> float | None:
        """In the watching thread: the process has not ended; the seconds that it still has."""
        assert self.requested_at is not None
        passed = time.monotonic() - self.requested_at
        left = LAST_MOMENT * self.grace - passed
        if left > 0 and (self.requested or self._deferred):
            return left  # the main thread has seen it and is on its way, or saves first
        message = f"stopped by SIGTERM, and not done within {passed:.0f} s: ended "
        message += "with nothing to save" if left > 0 else "without saving"
        error = self.answer or PreemptedError(message, hint=NOTHING_LOST if left > 0 else NOT_SAVED)
        try:
            with suppress(Exception):  # the disk is full, the file is closed already
                self.on_overdue(error)
            sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
            sys.stderr.flush()
        finally:  # also where it cannot be told any more
            os._exit(PreemptedError.exit_code)

    def _unraisable(self, ignored: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a ``__del__``: then the next :meth:`check` stops the run."""
        if not isinstance(ignored.exc_value, StopNow):
            self._old_hook(ignored)

    def __enter__(self) -> StopRequest:
        self._old_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                # What was ignored stays so (nohup, background jobs of a shell), but for what ends a pod.
                if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._handle)
            self._watch.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old.clear()
        self._watch.stop()
        sys.unraisablehook = self._old_hook
        if isinstance(error, StopNow):
            raise self.error() from error
