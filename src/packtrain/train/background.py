"""Work that goes on beside training, in a thread of its own, and is tried again for as long as it takes.

Nothing here calls back into the program: what is to be said is kept until the training thread asks
for it, so that events have one writer. Only the monotonic clock is used; others can jump.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from packtrain.errors import ConflictError, PacktrainError


class Outage:
    """Says once that something fails, and why, and once that it works again."""

    def __init__(self, down: str, meanwhile: str, up: str) -> None:
        """``down``: such as "checkpoints are not copied to gs://…"; ``up``: that they are again."""
        self._down, self._meanwhile, self._up = down, meanwhile, up
        self._kind: str | None = None
        self._since = 0.0
        self._said: list[str] = []
        self._mutex = threading.Lock()

    def failed(self, kind: str, why: str) -> None:
        """``kind``: what tells one cause from another; a second failure of the same kind is not said."""
        with self._mutex:
            if self._kind is None:
                self._since = time.monotonic()
            if kind != self._kind:
                self._said.append(f"{self._down}: {why}; {self._meanwhile}")
            self._kind = kind

    def worked(self) -> None:
        with self._mutex:
            if self._kind is not None:
                seconds = time.monotonic() - self._since
                self._said.append(f"{self._up}, after {seconds:.0f} s")
            self._kind = None

    def take(self) -> list[str]:
        """What is to be said, each sentence once."""
        with self._mutex:
            said, self._said = self._said, []
            return said


class Worker:
    """A daemon thread that calls ``work()`` when it is woken, every ``every`` seconds, or both.

    ``work`` does all that there is to do. Errors of ours and of the system are kept in ``outage`` and
    it is called again, after ``first_delay`` seconds and then twice as long each time, up to
    ``max_delay``, or as soon as it is woken. A :class:`ConflictError` (another one writes here) or a
    bug ends the thread; :meth:`check` raises it.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        outage: Outage,
        *,
        every: float | None = None,
        first_delay: float = 5.0,
        max_delay: float = 60.0,
    ) -> None:
        self._work, self._outage, self._every = work, outage, every
        self._first_delay, self._max_delay = first_delay, max_delay
        self._condition = threading.Condition()
        self._asked = self._begun = self._done = 0
        self._stopping = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"packtrain-{name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have ``work`` called soon; returns at once."""
        with self._condition:
            self._asked += 1
            self._condition.notify_all()

    def wait(self, timeout: float) -> bool:
        """Have ``work`` called, and wait at most ``timeout`` seconds until it has done well."""
        with self._condition:
            self._asked += 1
            target = self._asked
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: self._done >= target or self._error is not None or self._stopping, timeout
            )
            return self._done >= target

    def stop(self, timeout: float) -> bool:
        """No more calls; waits at most ``timeout`` seconds for one that is under way. Whether it ended."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Raise what ended the thread."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        pause, failures = self._every, 0
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._asked > self._begun or self._stopping, pause)
                if self._stopping:
                    return
                target = self._begun = self._asked
            try:
                self._work()
            except ConflictError as error:
                self._end(error)
                return
            except (PacktrainError, OSError) as error:
                pause = min(self._max_delay, self._first_delay * 2**failures)
                failures = min(failures + 1, 16)
                self._outage.failed(type(error).__name__, str(error))
            except Exception as error:  # noqa: BLE001  a bug: check() raises it where it is seen
                self._end(error)
                return
            else:
                pause, failures = self._every, 0
                self._outage.worked()
                with self._condition:
                    self._done = target
                    self._condition.notify_all()

    def _end(self, error: Exception) -> None:
        with self._condition:
            self._error = error
            self._condition.notify_all()
