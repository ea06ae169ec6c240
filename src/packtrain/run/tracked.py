"""The trackers of `report.to` beside an attempt: they get its events, and never hold it up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from packtrain.errors import PacktrainError
from packtrain.report.trackers.feed import Feeds
from packtrain.report.trackers.told import about, ending
from packtrain.report.trackers.tracker import About
from packtrain.runfile import load

if TYPE_CHECKING:
    from packtrain.run.session import Session
    from packtrain.rundir import Event

#: Seconds in which they may send the last; at a stop, whose state is saved by then, so much of what is left.
AT_END, AT_STOP = 20.0, 0.5


@contextmanager
def tracked(session: Session) -> Iterator[Callable[[Event], None]]:
    """What is called with each event of an attempt."""
    names = session.run_file.config.report.to
    if not names:
        yield lambda event: None
        return

    def whose(start: Event) -> About:
        config = session.run_file.config
        with suppress(PacktrainError):  # with the revisions that are pinned by now
            config = load(session.run_dir.config_file).config
        return about(config, session.identity.run_id, session.run_dir.path, start)

    said: dict[str, Event] = {}

    def warn(message: str) -> None:
        if "word" in said:  # after it no event comes
            session.progress.note(f"warning: {message}")
        else:
            session.warn(message, said["step"].step if "step" in said else 0)

    feeds = Feeds(names, whose, warn, session.progress.note)

    def on_event(event: Event) -> None:
        key = {"end": "word", "preempted": "word"}.get(event.kind, event.kind)
        if key in ("word", "published", "step"):
            said[key] = event
        feeds.event(event)

    try:
        yield on_event
    finally:
        patience = AT_END
        if session.stop.requested_at is not None:
            patience = min(AT_END, AT_STOP * session.seconds_left())
        feeds.finish(ending(said.get("word"), said.get("published"), session.run_dir), patience)
