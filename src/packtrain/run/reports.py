"""The page about a run: written by the run itself, or for whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from packtrain.errors import PacktrainError, UsageError
from packtrain.report.facts import read_facts
from packtrain.report.tensorboard import board
from packtrain.report.write import REPORT, seconds_for, write_report
from packtrain.run.board_mirror import board_copied
from packtrain.run.tracked import tracked
from packtrain.run.where import find
from packtrain.rundir import write_atomically
from packtrain.storage import Storage

if TYPE_CHECKING:
    from packtrain.run.session import Session
    from packtrain.rundir import Event

#: For the page's copy in the bucket: it is small, and can be written again.
COPY_SECONDS = 5.0


def write_one(run: str, output: Path | None) -> Path:
    """Errors: :class:`ConfigError` where there is no run, those of storage."""
    with find(run) as found:
        to = output or (Path(REPORT) if found.temporary else None)
        return write_report(found.run_dir, to, spent_usd=found.spent_usd)


def write_comparison(runs: Sequence[str], output: Path | None) -> Path:
    """As :func:`write_one`; :class:`UsageError` for more runs than can be told apart."""
    from packtrain.report.page import MOST_RUNS, render_comparison

    if len(runs) > MOST_RUNS:
        raise UsageError(f"{len(runs)} runs: at most {MOST_RUNS} can be told apart on one axis")
    with ExitStack() as stack:
        found = [stack.enter_context(find(run)) for run in runs]
        facts = [read_facts(each.run_dir, spent_usd=each.spent_usd) for each in found]
    path = output or Path(REPORT)
    write_atomically(path, render_comparison(facts).encode())
    return path


def publish_report(session: Session) -> None:
    """Into the folder that is published, before its receipt is made; a failure is one warning."""
    try:
        write_report(session.run_dir, session.run_dir.adapter / REPORT, here=True)
    except Exception as error:  # noqa: BLE001  (the work is done: no page is worth losing it)
        session.report_failed = True
        session.warn(_failed(error))


@contextmanager
def reported(session: Session, attempt: int) -> Iterator[None]:
    """TensorBoard's files and the trackers as the attempt goes, and the page at its end."""
    remote = session.keeping.remote if session.keeping is not None else None
    try:
        with (
            board_copied(session.run_dir.path, remote, session.seconds_left),
            board(session.run_dir.path, attempt, session.warn) as write,
            tracked(session) as tell,
        ):

            def on_event(event: Event) -> None:
                write(event)
                tell(event)

            session.on_event = on_event
            yield
    finally:
        last_report(session)


def last_report(session: Session) -> None:
    """At the end of an attempt, however it ended, and beside its events in the bucket.

    A stop that has little time left goes without.
    """
    try:
        if session.stop.requested_at is not None and session.seconds_left() < seconds_for(session.run_dir):
            return
        path = write_report(session.run_dir)
        if session.keeping is not None and session.keeping.remote is not None:
            _copy(session.keeping.remote, path.read_bytes(), session.seconds_left())
    except Exception as error:  # noqa: BLE001
        if not session.report_failed:
            session.progress.stage(f"warning: {_failed(error)}")


def _copy(remote: Storage, page: bytes, timeout: float) -> None:
    """To the run's place in a bucket, and no longer than so: one that is away holds up no stop."""

    def write() -> None:
        with suppress(PacktrainError, OSError):
            remote.write(REPORT, page)

    thread = threading.Thread(target=write, name="packtrain-report", daemon=True)
    thread.start()
    thread.join(min(timeout, COPY_SECONDS))


def _failed(error: Exception) -> str:
    return f"{REPORT} was not written ({error}); packtrain report RUN writes it"
