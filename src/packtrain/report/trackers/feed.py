"""The way from a run's events to its trackers: a thread each, for which training never waits.

A tracker that fails, or is away, is given up for this attempt, with one warning. What it says to the
run is kept until the training thread asks, so that events have one writer.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from packtrain.config import Tracker as Name
from packtrain.report.trackers.told import row_of
from packtrain.report.trackers.tracker import KINDS, About, Ending, Row, Tracker, begin, secrets
from packtrain.rundir import Event

#: Rows that wait for a tracker at most; what comes after is counted, and left out.
MOST = 20_000
#: Rows of one call, and seconds between two.
EACH, PAUSE = 500, 1.0
#: Seconds that a tracker may take to end before that is told.
AT_ONCE = 1.0
_WHOSE = re.compile(r"//[^/@\s]+@")


class Feed:
    """One tracker's thread, and what waits for it."""

    def __init__(self, name: Name, make: Callable[[], Tracker], *, pause: float = PAUSE) -> None:
        self.title, self._make, self._pause = KINDS[name].title, make, pause
        self._rows: deque[Row] = deque()
        self._left_out = 0
        self._ending: Ending | None = None
        self._said: list[str] = []
        self._link: str | None = None
        self._given_up = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"packtrain-{name}", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Returns at once."""
        with self._change:
            if self._given_up:
                return
            if len(self._rows) < MOST:
                self._rows.append(row)
            else:
                self._left_out += 1
            self._change.notify()

    def take(self) -> tuple[list[str], str | None]:
        """Warnings and the link, each once."""
        with self._change:
            said, self._said = self._said, []
            link, self._link = self._link, None
            return said, link

    def end(self, ending: Ending) -> None:
        """Have what waits sent, and the tracker told how it ended; returns at once."""
        with self._change:
            self._ending = ending
            self._change.notify()

    def ended(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def leave(self, timeout: float) -> None:
        """Wait for the end, and go on without it."""
        if not self.ended(timeout):
            with self._change:
                self._given_up = True
                self._said.append(f"{self.title}: does not end; its last numbers may be missing there")

    def _run(self) -> None:
        try:
            tracker = self._make()
            with self._change:
                self._link = tracker.link
            while True:
                rows, ending = self._next()
                if rows:
                    tracker.log(rows)
                elif ending is not None:
                    tracker.finish(ending)
                    self._tell_missing()
                    return
        except BaseException as error:  # noqa: BLE001  (whatever it is, the run has nothing to do with it)
            with self._change:
                self._given_up = True
                self._rows.clear()
                self._said.append(
                    f"{self.title}: {_first_line(error)}; the run goes on without it, and its numbers are in "
                    "events.jsonl and TensorBoard's files"
                )

    def _tell_missing(self) -> None:
        with self._change:
            if self._left_out:
                self._said.append(
                    f"{self.title}: was slower than training; {self._left_out:,} steps are missing there"
                )

    def _next(self) -> tuple[list[Row], Ending | None]:
        """The rows that wait, or else how it ends; several rows at a time."""
        with self._change:
            self._change.wait_for(lambda: self._rows or self._ending is not None)
            self._change.wait_for(lambda: self._ending is not None or len(self._rows) >= EACH, self._pause)
            count = min(EACH, len(self._rows))
            return [self._rows.popleft() for _ in range(count)], self._ending


def _first_line(error: BaseException) -> str:
    """Without what identifies somebody: a library may say where, and with what, it was refused."""
    told = (str(error).strip().splitlines() or [""])[0]
    for secret in secrets(os.environ):
        told = told.replace(secret, "[hidden]")
    told = _WHOSE.sub("//[hidden]@", told)[:300]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


class Feeds:
    """All trackers of an attempt: they begin with its `start`.

    ``warn`` is told what failed, ``tell`` where the run can be seen, both in the caller's thread.
    """

    def __init__(
        self,
        names: Sequence[Name],
        about: Callable[[Event], About],
        warn: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self._names, self._about, self._warn, self._tell = tuple(dict.fromkeys(names)), about, warn, tell
        self._feeds: list[Feed] = []

    def event(self, event: Event) -> None:
        """One of the attempt's; returns at once."""
        if event.kind == "start" and not self._feeds:
            about = self._about(event)
            self._feeds = [Feed(name, partial(begin, name, about)) for name in self._names]
        row = row_of(event) if self._feeds else None
        if row is not None:
            for feed in self._feeds:
                feed.put(row)
        if event.kind == "step":
            self._pass_on()

    def finish(self, ending: Ending, timeout: float) -> None:
        """Within ``timeout`` seconds for all of them."""
        for feed in self._feeds:
            feed.end(ending)
        until = time.monotonic() + timeout
        for feed in self._feeds:
            if not feed.ended(min(AT_ONCE, timeout)):
                self._tell(f"waiting for {feed.title}")
                feed.leave(max(0.0, until - time.monotonic()))
        self._pass_on()

    def _pass_on(self) -> None:
        for feed in self._feeds:
            said, link = feed.take()
            for warning in said:
                self._warn(warning)
            if link is not None:
                self._tell(f"{feed.title}: {link}")
