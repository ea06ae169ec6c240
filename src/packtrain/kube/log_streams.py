"""One pod's log, read to its end over any number of streams: nothing is lost, and nothing said twice."""

from __future__ import annotations

import random
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from packtrain.errors import UnavailableError
from packtrain.kube.api import POD, Cluster
from packtrain.kube.api_errors import AbsentError, NotYetError
from packtrain.kube.observe import Say
from packtrain.kube.pod_facts import Pod, read_pod

#: Tries to read the log of a pod that has ended, and whose node may be gone.
TRIES = 20
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)


@dataclass
class Place:
    """How far a pod's log was read, so that a stream that is opened anew repeats nothing."""

    stamp: tuple[str, str] = ("", "")
    """Second and nanoseconds of the last line."""
    same: int = 0
    """Lines with that very time that were read."""
    since: str = ""
    """For ``sinceTime``, which counts in seconds."""
    _repeated: int = 0

    def reopen(self) -> dict[str, str]:
        """The options of the next request."""
        self._repeated = 0
        return {"sinceTime": self.since} if self.since else {}

    def new(self, line: str) -> str | None:
        """The line without its time, None for one that was read before."""
        found = _STAMP.match(line)
        if found is None:
            return line
        second, fraction, zone, text = found.groups()
        stamp = (second, (fraction or "").ljust(9, "0"))
        if stamp < self.stamp:
            return None
        if stamp == self.stamp:
            self._repeated += 1
            if self._repeated <= self.same:
                return None
            self.same += 1
        else:
            self.stamp, self.same, self._repeated = stamp, 1, 1
            self.since = f"{second}{zone}"
        return str(text)


class LogLostError(UnavailableError):
    """The log of a pod that has ended went with its node."""


@dataclass
class Reader:
    """Reads the log of one pod to its end, over any number of streams."""

    cluster: Cluster
    pod: Pod
    say: Say
    stop: threading.Event
    pause: float = 1.0
    away: float = 900.0
    """Seconds for which a pod that runs may be out of reach."""
    place: Place = field(default_factory=Place)

    def run(self) -> None:
        """Errors: :class:`LogLostError` where the pod has ended and its log is out of reach,
        :class:`UnavailableError` where that of a pod which runs stays so."""
        failures, over, reached = 0, False, time.monotonic()
        while not self.stop.is_set():
            before, was_over = (self.place.stamp, self.place.same), over
            try:
                self._stream()
                failures, reached = 0, time.monotonic()
                if was_over and (self.place.stamp, self.place.same) == before:
                    return
                # A stream may end in order before the log does: only one that brings nothing after the end
                # of its container was the last.
                over = self._is_over()
            except AbsentError:
                return  # the pod is gone, with its log
            except NotYetError:
                failures, reached = 0, time.monotonic()
            except UnavailableError:
                if (self.place.stamp, self.place.same) != before:
                    failures, reached = 0, time.monotonic()
                failures += 1
                if failures > TRIES and self._has_ended():
                    raise LogLostError(
                        f"the rest of the log of {self.pod.name} is out of reach, with its node; its last "
                        "lines are in the bucket"
                    ) from None
                if time.monotonic() - reached > self.away:
                    raise
            self.stop.wait(self.pause * random.uniform(0.5, 1.0))

    def _stream(self) -> None:
        options = {"follow": "true", "timestamps": "true", **self.place.reopen()}
        with self.cluster.log(self.pod.name, self.pod.container, **options) as lines:
            for line in lines:
                text = self.place.new(line)
                if text is not None:
                    self.say(text)
                if self.stop.is_set():
                    return

    def _has_ended(self) -> bool:
        with suppress(UnavailableError):  # the API server itself is away: nothing is known
            return self._is_over()
        return False

    def _is_over(self) -> bool:
        """The stream ended in order: because the container did, or for another reason?"""
        found = self.cluster.get(POD, self.pod.name)
        if found is None or found["metadata"].get("uid") != self.pod.uid:
            return True
        now = read_pod(found)
        return now.over or now.ended is not None
