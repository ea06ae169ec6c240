"""What a run's folder holds, and its events: the one truth about a run.

Events are appended by :class:`EventWriter` and read by :func:`history`, or :func:`stream` where there may be
very many; nobody else parses the file. Progress bar, report and live view are readers.
"""

from __future__ import annotations

from packtrain.rundir.events import (
    EVENTS_VERSION,
    KINDS,
    PROGRESS,
    Event,
    EventWriter,
    Kind,
    parse_events,
    segment_name,
    timestamp,
    whole_lines,
)
from packtrain.rundir.files import sync, write_atomically
from packtrain.rundir.folder import RunDir, RunIdentity, new_run_id
from packtrain.rundir.history import SoFar, ends_of, history, last_attempt, stream, tell_end

__all__ = [
    "EVENTS_VERSION",
    "KINDS",
    "PROGRESS",
    "Event",
    "EventWriter",
    "Kind",
    "RunDir",
    "RunIdentity",
    "SoFar",
    "ends_of",
    "history",
    "last_attempt",
    "new_run_id",
    "parse_events",
    "segment_name",
    "stream",
    "sync",
    "tell_end",
    "timestamp",
    "whole_lines",
    "write_atomically",
]
