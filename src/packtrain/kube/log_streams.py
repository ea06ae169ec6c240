"""One pod's log, read to its end over any number of streams: nothing is lost, and nothing said twice."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field

from packtrain.errors import UnavailableError
from packtrain.kube.api import POD, Cluster
from packtrain.kube.api_errors import AbsentError, NotYetError
from packtrain.kube.observe import Say
from packtrain.kube.pod_facts import Pod, read_pod

#: Tries to open a stream again without a new line in between.
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


@dataclass
class Reader:
    """Reads the log of one pod to its end, over any number of streams."""

    cluster: Cluster
    pod: Pod
    say: Say
    stop: threading.Event
    pause: float = 1.0
    place: Place = field(default_factory=Place)

    def run(self) -> None:
        """Errors: :class:`UnavailableError` where the log cannot be reached, after many tries."""
        failures, over = 0, False
        while not self.stop.is_set():
            before, was_over = (self.place.stamp, self.place.same), over
            try:
                self._stream()
                failures = 0
                if was_over and (self.place.stamp, self.place.same) == before:
                    return
                # A stream may end in order before the log does: only one that brings nothing after the end
                # of its container was the last.
                over = self._is_over()
            except AbsentError:
                return  # the pod is gone, with its log
            except NotYetError:
                failures = 0
            except UnavailableError:
                failures = failures + 1 if (self.place.stamp, self.place.same) == before else 1
                if failures > TRIES:
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

    def _is_over(self) -> bool:
        """The stream ended in order: because the container did, or for another reason?"""
        found = self.cluster.get(POD, self.pod.name)
        if found is None or found["metadata"].get("uid") != self.pod.uid:
            return True
        now = read_pod(found)
        return now.over or now.ended is not None
