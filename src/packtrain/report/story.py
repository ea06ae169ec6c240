"""What the events of a run say, gathered in one pass and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from packtrain.report.series import Series
from packtrain.rundir import Event

#: Fields of a step that are drawn.
CURVES = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "peak_bytes")
#: So many warnings and attempts are listed, the newest; all are counted.
LISTED = 50


@dataclass
class Attempt:
    number: int
    began: float
    """Seconds since 1970, as the rest."""
    until: float
    resumed_from: int | None = None
    first_step: int | None = None
    last_step: int = 0
    end: Event | None = None
    """Its last word; None for one that was killed, or goes on."""

    @property
    def seconds(self) -> float:
        return self.until - self.began

    @property
    def outcome(self) -> str:
        """``done``, ``failed``, ``preempted``, or ``no last word``."""
        if self.end is None:
            return "no last word"
        return "preempted" if self.end.kind == "preempted" else str(self.end.fields.get("outcome", "failed"))

    @property
    def ending(self) -> str:
        """The outcome, with its exit code where there is one."""
        code = self.end.fields.get("exit_code") if self.end else None
        return self.outcome + (f" with exit code {code}" if code else "")


@dataclass
class Story:
    curves: dict[str, Series] = field(default_factory=lambda: {name: Series() for name in CURVES})
    validation: Series = field(default_factory=Series)
    base_loss: float | None = None
    checkpoints: Series = field(default_factory=Series)
    """Seconds each took, by the time it was complete."""
    attempts: deque[Attempt] = field(default_factory=lambda: deque(maxlen=LISTED))
    attempt_count: int = 0
    seconds_before: float = 0.0
    """Of the attempts that are not listed any more."""
    ended_before: dict[str, int] = field(default_factory=dict)
    """How the attempts before the newest ended, and how many so."""
    resumes: int = 0
    start: dict[str, Any] = field(default_factory=dict)
    """Fields of the newest start that has any."""
    plan: dict[str, Any] = field(default_factory=dict)
    happened: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    warnings: dict[str, int] = field(default_factory=dict)
    """Sentence, and how often it was said."""
    more_warnings: int = 0
    published: dict[str, Any] | None = None
    step: int = 0
    saved_step: int | None = None
    tokens: int = 0
    supervised_tokens: int = 0
    events: int = 0
    last: Event | None = None

    @property
    def steps(self) -> int | None:
        return self.start.get("steps")

    @property
    def attempt_seconds(self) -> float:
        """Of all attempts together."""
        return self.seconds_before + sum(attempt.seconds for attempt in self.attempts)

    @property
    def end(self) -> Event | None:
        """The last word of the newest attempt."""
        return self.attempts[-1].end if self.attempts else None

    @property
    def outcome(self) -> str:
        return self.attempts[-1].outcome if self.attempts else "not begun"

    @property
    def loss(self) -> float | None:
        """The last validation loss of what was trained."""
        return self.validation.last if self.validation.points and self.validation.points[-1].x > 0 else None


def gather(events: Iterable[Event]) -> Story:
    story = Story()
    for event in events:
        take(story, event)
    return story


def moment(event: Event) -> float:
    """Seconds since 1970."""
    return datetime.fromisoformat(event.time).timestamp()


def take(story: Story, event: Event) -> None:
    """One more event, in the order of :func:`packtrain.rundir.stream`."""
    story.events, story.last, fields = story.events + 1, event, event.fields
    attempt = _attempt(story, event)
    match event.kind:
        case "step":
            story.step = event.step
            story.tokens += fields.get("tokens", 0)
            story.supervised_tokens += fields.get("supervised_tokens", 0)
            attempt.last_step = event.step
            if attempt.first_step is None:
                attempt.first_step = event.step
            for name in CURVES:
                if fields.get(name) is not None:
                    story.curves[name].add(event.step, float(fields[name]))
        case "eval":
            story.validation.add(event.step, float(fields["loss"]))
            if fields.get("model") == "base":
                story.base_loss = float(fields["loss"])
        case "checkpoint":
            story.saved_step = event.step
            if fields.get("mirrored") is not True:
                story.checkpoints.add(moment(event), float(fields.get("seconds", 0.0)))
        case "warning":
            _warned(story, str(fields.get("message", "")))
        case _:
            _tell(story, attempt, event)


def _tell(story: Story, attempt: Attempt, event: Event) -> None:
    fields = event.fields
    match event.kind:
        case "start":
            attempt.resumed_from = fields.get("resumed_from")
            story.resumes += attempt.resumed_from is not None
            story.start = story.start | {key: value for key, value in fields.items() if value is not None}
        case "plan" if "happened" in fields:
            story.happened = fields["happened"]
        case "plan":
            story.plan = fields
        case "data":
            story.data = fields
        case "answers":
            story.answers = fields["answers"]
        case "published":
            story.published = fields
        case "end" | "preempted":
            attempt.end = event


def _attempt(story: Story, event: Event) -> Attempt:
    """The event's attempt, which lasts until it; what comes after a last word is another's."""
    now = moment(event)
    newest = story.attempts[-1] if story.attempts else None
    if newest is None or newest.number != event.attempt:
        if len(story.attempts) == LISTED:
            story.seconds_before += story.attempts[0].seconds
        if newest is not None:
            story.ended_before[newest.ending] = story.ended_before.get(newest.ending, 0) + 1
        newest = Attempt(event.attempt, now, now)
        story.attempts.append(newest)
        story.attempt_count += 1
    newest.until = max(now, newest.until)
    return newest


def _warned(story: Story, message: str) -> None:
    if message in story.warnings or len(story.warnings) < LISTED:
        story.warnings[message] = story.warnings.get(message, 0) + 1
    else:
        story.more_warnings += 1
