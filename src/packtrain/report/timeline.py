"""Attempts, checkpoints and interruptions by the clock, as SVG."""

from __future__ import annotations

from dataclasses import dataclass

from packtrain.report.chart import LEFT, WIDTH, Tick, nice_ticks
from packtrain.report.story import Attempt, Story

END = WIDTH - 14
#: What an attempt's end looks like, with or without colour.
MARKS = {"done": "✓", "failed": "✗", "preempted": "▲", "no last word": "…"}
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    label: str
    mark: str
    outcome: str


@dataclass(frozen=True)
class Timeline:
    bars: tuple[Bar, ...]
    checkpoints: tuple[float, ...]
    ticks: tuple[Tick, ...]
    unit: str
    summary: str


def draw_timeline(story: Story) -> Timeline | None:
    if not story.attempts:
        return None
    begin = story.attempts[0].began
    span = max(max(attempt.until for attempt in story.attempts) - begin, 1.0)
    unit, size = next(each for each in _UNITS if span >= each[1])

    def x(moment: float) -> float:
        return round(LEFT + (moment - begin) / span * (END - LEFT), 1)

    saved = tuple(x(point.x) for point in story.checkpoints.points if point.x >= begin)
    interruptions = sum(count for how, count in story.ended_before.items() if how != "done")
    return Timeline(
        bars=tuple(_bar(attempt, x(attempt.began), x(attempt.until)) for attempt in story.attempts),
        checkpoints=saved,
        ticks=tuple(Tick(x(begin + tick * size), f"{tick:g}") for tick in nice_ticks(0, span / size)),
        unit=unit,
        summary=", ".join(
            f"{count} {what}{'' if count == 1 else 's'}"
            for count, what in (
                (story.attempt_count, "attempt"),
                (interruptions, "interruption"),
                (story.checkpoints.count, "checkpoint"),
            )
        ),
    )


def _bar(attempt: Attempt, begin: float, end: float) -> Bar:
    label = f"attempt {attempt.number}: {attempt.outcome}"
    if attempt.first_step is not None:
        label += f", steps {attempt.first_step} to {attempt.last_step}"
    return Bar(
        begin, max(round(end - begin, 1), 2.0), label, MARKS.get(attempt.outcome, "?"), attempt.outcome
    )
