"""Batches of data that is streamed: one window is trained on while a thread makes the next.

Every rank reads the same stream and takes its own part of each batch. A window begins on all ranks at
once, when all have it; a rank that cannot read ends the run on all of them, with what was done saved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet

from packtrain.data.batches import Indices
from packtrain.data.stream import Window, WindowMaker
from packtrain.data.stream_mark import Mark
from packtrain.errors import BY_EXIT_CODE, BugError, ConfigError, PacktrainError, UnavailableError
from packtrain.model.parallel import World

#: Seconds between two looks at whether a stop was asked for, while a window is waited for.
LOOK = 0.2


class StreamEndedError(Exception):
    """The data cannot be read further, on all ranks; ``reason`` says why. What was done can be saved."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class StreamedPlan:
    """The optimizer steps of a run whose data is streamed: of the window that is trained on, and the next."""

    def __init__(self, maker: WindowMaker, mark: Mark, *, steps: int, world: World) -> None:
        self.steps = steps
        """Of the whole run."""
        self._maker, self._world = maker, world
        self._mark = mark
        """Of the window, or of the next one before it is there."""
        self._window: Window | None = None
        self._next = self._begin(mark.window)

    @property
    def most_bins(self) -> int:
        """Bins of the largest batch so far."""
        return self._mark.most_bins

    def first(self) -> Window:
        """The window that training goes on in, waited for.

        Errors: what keeps it from being read; ConfigError where a resumed run finds other rows in it.
        """
        window = self._next.result()
        if self._mark.content not in ("", window.rows.fingerprint):
            raise ConfigError(
                f"data.train: the rows from {window.rows.places[0]} on are others than when the run was "
                "stopped",
                hint="put the data back as it was, or start another run under this name with --new",
            )
        return window

    def turn_to(self, step: int, wait: Callable[[], None]) -> Window:
        """The window that holds ``step``, 1 … :attr:`steps`, which are asked for in order. All ranks call.

        ``wait()`` is called now and then, on all ranks alike, while it is not there; it may raise.
        Errors: :class:`StreamEndedError`.
        """
        if self._window is not None and step > self._mark.steps + self._window.steps:
            self._mark = self._mark.after(self._window, self._window.steps)
            self._window = None
        if self._window is None:
            while self._world.any(not self._is_ready()):
                wait()
            self._window = self._agreed()
            self._mark = self._mark.within(self._window)
            if self._mark.steps + self._window.steps < self.steps:
                self._next = self._begin(self._mark.window + 1)
        return self._window

    def batch(self, step: int) -> Indices:
        """Bin ids of ``step``, which is one of the window's."""
        assert self._window is not None
        return self._window.batch(step - self._mark.steps - 1)

    def epoch_at(self, step: int) -> float:
        """Epochs that were read after ``step`` steps, as far as is known."""
        window = self._window or self._next.result()
        begin, end = window.epochs
        return begin + (end - begin) * min(1.0, (step - self._mark.steps) / window.steps)

    def mark(self, step: int) -> Mark:
        """Where to go on from after ``step``: in its window, or behind it."""
        if self._window is not None and step >= self._mark.steps + self._window.steps:
            return self._mark.after(self._window, self._window.steps)
        return self._mark

    def trained(self, step: int) -> Mark:
        """What was trained on in ``step`` steps, to the row."""
        if step <= self._mark.steps:
            return self._mark
        return self._mark.after(self._window or self._next.result(), step - self._mark.steps)

    def _is_ready(self) -> bool:
        try:
            self._next.exception(LOOK)
        except NotYet:
            return False
        return True

    def _agreed(self) -> Window:
        """The next window, the same on all ranks."""
        error = self._next.exception()
        own = self._next.result().rows.fingerprint if error is None else _told(error)
        found = self._world.gather(own)
        failed = {rank: each for rank, each in enumerate(found) if not isinstance(each, str)}
        if isinstance(error, Exception):
            raise StreamEndedError(error)
        if failed:
            rank, (code, message, hint) = min(failed.items())
            kind = BY_EXIT_CODE.get(code, UnavailableError)
            raise StreamEndedError(kind(f"rank {rank} cannot read the data: {message}", hint=hint))
        if len(set(found)) > 1:
            raise StreamEndedError(BugError("the ranks made different tokens of the same data"))
        return self._next.result()

    def _begin(self, number: int) -> Future[Window]:
        made: Future[Window] = Future()

        def make() -> None:
            try:
                made.set_result(self._maker.make(number))
            except BaseException as error:  # noqa: BLE001  (whoever waits for the window gets it)
                made.set_exception(error)

        # A daemon: a process that ends does not wait for a server that does not answer.
        threading.Thread(target=make, name="packtrain-stream", daemon=True).start()
        return made


def _told(error: BaseException) -> tuple[int, str, str | None]:
    if isinstance(error, PacktrainError):
        return error.exit_code, str(error), error.hint
    return UnavailableError.exit_code, f"{type(error).__name__}: {error}", None
