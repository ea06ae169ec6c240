"""Gathering: bounded, right after resumes, and no stranger to NaN."""

from __future__ import annotations

import math

import pytest
from report_kit import DONE, PREEMPTED, Make, evaluated, saved, started, step

from packtrain.report.series import MOST, Series
from packtrain.report.story import LISTED, gather
from packtrain.rundir import Event, stream


@pytest.mark.parametrize("count", [1, MOST, MOST + 1, 10 * MOST + 3])
def test_a_curve_is_bounded_and_loses_no_value(count: int) -> None:
    series = Series()
    for x in range(count):
        series.add(x, float(x % 17))
    assert len(series.points) <= MOST
    assert series.count == count
    assert series.exact == (count <= MOST)
    assert sum(point.total for point in series.points) == sum(x % 17 for x in range(count))
    assert [point.x for point in series.points] == sorted(point.x for point in series.points)
    assert series.points[-1].x == count - 1 and series.last == (count - 1) % 17


def test_a_spike_is_still_seen_in_a_million_values() -> None:
    series = Series()
    for x in range(1_000_000):
        series.add(x, 50.0 if x == 654_321 else 1.0)
    assert max(point.high for point in series.points) == 50.0
    assert min(point.low for point in series.points) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_not_drawn(value: float) -> None:
    series = Series()
    series.add(1, value)
    assert (series.points, series.not_finite, series.last) == ([], 1, None)


def test_a_resumed_run_is_one_story(make_run: Make) -> None:
    run = make_run(
        [started(), evaluated(0, 4.0), step(1), step(2), saved(2), step(3), step(4), PREEMPTED],
        [started(2), step(3), step(4), evaluated(4, 2.0), step(5), step(6), saved(6), DONE],
    )
    story = gather(stream(run.events_file))
    assert (story.step, story.tokens, story.base_loss, story.loss) == (6, 600, 4.0, 2.0)
    assert [point.x for point in story.curves["loss"].points] == [1, 2, 3, 4, 5, 6]
    assert [attempt.outcome for attempt in story.attempts] == ["preempted", "done"]
    assert (story.saved_step, story.resumes, story.outcome) == (6, 1, "done")


def test_many_attempts_are_counted_and_the_newest_listed() -> None:
    def event(attempt: int, second: int) -> Event:
        return Event("start", 0, attempt, 0, f"2026-01-01T{attempt:02d}:00:{second:02d}.000Z")

    numbers = range(1, 24)
    events = [event(number, second) for number in numbers for second in (0, 30)]
    story = gather(events)
    assert story.attempt_count == 23 and story.attempt_seconds == pytest.approx(23 * 30)
    more = [Event("start", 0, number, 0, "2026-01-01T00:00:00.000Z") for number in range(LISTED + 20)]
    story = gather(more)
    assert story.attempt_count == LISTED + 20 and len(story.attempts) == LISTED
    assert story.ended_before == {"no last word": LISTED + 19}


def test_warnings_that_repeat_are_told_once_and_counted() -> None:
    def warned(message: str) -> Event:
        return Event("warning", 0, 1, 0, "2026-01-01T00:00:00.000Z", fields={"message": message})

    story = gather([warned("again"), warned("again"), *(warned(str(n)) for n in range(2 * LISTED))])
    assert story.warnings["again"] == 2
    assert len(story.warnings) == LISTED and story.more_warnings == LISTED + 1


def test_a_run_without_events_has_not_begun() -> None:
    story = gather([])
    assert (story.outcome, story.end, story.loss) == ("not begun", None, None)
