"""Where a run lies in its bucket, and what its events tell there: for when its pods are gone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packtrain.config import RunConfig
from packtrain.kube.whose import known_run
from packtrain.run.event_mirror import restore_events
from packtrain.run.mirror import default_run_uri
from packtrain.rundir import Event, RunDir, RunIdentity, history
from packtrain.storage import Storage, open_storage


@dataclass(frozen=True)
class Story:
    """A run as its events in the bucket tell it."""

    identity: RunIdentity
    uri: str
    events: list[Event] = field(default_factory=list)

    def last(self, *kinds: str) -> Event | None:
        return next((event for event in reversed(self.events) if event.kind in kinds), None)

    def to_json(self) -> dict[str, Any]:
        start, step, saved = self.last("start"), self.last("step"), self.last("checkpoint")
        validated, end = self.last("eval"), self.last("end", "preempted")
        return {
            "run_id": self.identity.run_id,
            "run_uri": self.uri,
            "attempt": start.attempt if start else 0,
            "step": step.step if step else 0,
            "steps": start.fields.get("steps") if start else None,
            "loss": step.fields.get("loss") if step else None,
            "validation_loss": validated.fields.get("loss") if validated else None,
            "checkpoint": saved.step if saved else None,
            "last_event": self.events[-1].time if self.events else None,
            "ended": _ended(end, start),
        }


def _ended(end: Event | None, start: Event | None) -> dict[str, Any] | None:
    """How the last attempt ended; None while it goes on."""
    if end is None or (start is not None and (end.attempt, end.seq) < (start.attempt, start.seq)):
        return None
    outcome = "preempted" if end.kind == "preempted" else end.fields.get("outcome")
    return {
        "outcome": outcome,
        "exit_code": end.fields.get("exit_code"),
        "message": end.fields.get("message"),
        "time": end.time,
    }


def run_uri(config: RunConfig, run_id: str) -> str:
    uri = config.output.run_uri or default_run_uri(config.output.uri, config.name, run_id)
    assert uri is not None, "check_for_cluster wants a bucket"
    return uri


@contextmanager
def run_place(config: RunConfig) -> Iterator[tuple[RunIdentity, Storage] | None]:
    """The run that has the name, and its place; None where there is none."""
    known = known_run(config)
    if known is None:
        yield None
        return
    with closing(open_storage(run_uri(config, known.run_id))) as storage:
        yield known, storage


def story(config: RunConfig) -> Story | None:
    """Errors: those of :class:`Storage`."""
    with run_place(config) as found, tempfile.TemporaryDirectory() as folder:
        if found is None:
            return None
        known, storage = found
        run_dir = RunDir(Path(folder))
        restore_events(run_dir, storage)
        return Story(known, storage.uri, history(run_dir.events_file))
