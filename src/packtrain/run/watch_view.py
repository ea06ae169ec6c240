"""What the live view shows, as values and lines of text: pure, and the same in every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from packtrain.report.efficiency import Efficiency, efficiency
from packtrain.report.facts import RunFacts
from packtrain.report.series import Series
from packtrain.report.story import Story
from packtrain.train.progress import duration

#: Events and lines of a log that are kept.
EVENTS = 50
Points = tuple[tuple[float, float], ...]

Told = tuple[tuple[int, int], str]
"""Attempt and seq of an event, and its line."""


@dataclass(frozen=True)
class Standing:
    """What is seen of a run in its cluster."""

    sentence: str
    over: bool | None
    """None where the cluster knows of no job: the run may be elsewhere, or not submitted yet."""
    lines: tuple[str, ...] = ()
    """The last that it printed."""


@dataclass(frozen=True)
class View:
    name: str
    run_id: str
    place: str
    status: str
    over: bool
    """By its cluster where that is seen, else because its newest attempt has told of its end."""
    step: int
    steps: int | None
    numbers: dict[str, float | None]
    """The last of each."""
    figures: tuple[str, ...]
    """The same for a person, those that are known."""
    loss: Points
    validation: Points
    base: float | None
    speed: Points
    """Tokens a second."""
    memory: Points
    """Bytes, the highest so far."""
    events: tuple[Told, ...]
    log: tuple[str, ...]
    cluster: str | None
    note: str | None
    """What could not be seen."""


def make_view(
    run: RunFacts,
    place: str,
    events: Iterable[Told],
    log: tuple[str, ...],
    cluster: Standing | None,
    note: str | None,
) -> View:
    story, used = run.story, efficiency(run.story)
    numbers = _numbers(run, used)
    return View(
        name=run.name,
        run_id=run.run_id,
        place=place,
        status=_status(story),
        over=cluster.over if cluster and cluster.over is not None else story.end is not None,
        step=story.step,
        steps=story.steps,
        numbers=numbers,
        figures=_figures(run, numbers, used),
        loss=_points(story.curves["loss"]),
        validation=_points(story.validation),
        base=story.base_loss,
        speed=_points(story.curves["tokens_per_second"]),
        memory=_points(story.curves["peak_bytes"]),
        events=tuple(events),
        log=(cluster.lines if cluster else ()) or log,
        cluster=cluster.sentence if cluster else None,
        note=note,
    )


def seconds_left(story: Story) -> float | None:
    """Of training alone, at the speed of the last steps; None where it is not known, or done."""
    speed, count = story.curves["tokens_per_second"], story.curves["loss"]
    done = count.count + count.not_finite
    if story.end is not None or not story.steps or not done or not speed.points:
        return None
    recent = speed.points[-10:]
    pace = sum(point.total for point in recent) / sum(point.count for point in recent)
    if pace <= 0:
        return None
    return max(0, story.steps - story.step) * (story.tokens / done) / pace


def _status(story: Story) -> str:
    if not story.attempts:
        return "no events yet: waiting for the run to begin"
    end = story.end
    if end is None:
        return f"attempt {story.attempts[-1].number} goes on"
    told = "ended: done and verified" if story.outcome == "done" else f"ended: {story.attempts[-1].ending}"
    message = " ".join(str(end.fields.get("message") or "").split())
    return f"{told}; {message}" if message else told


def _numbers(run: RunFacts, used: Efficiency | None) -> dict[str, float | None]:
    story, cost = run.story, run.cost
    return {
        "loss": story.curves["loss"].last,
        "validation_loss": story.validation.last,
        "tokens_per_second": story.curves["tokens_per_second"].last,
        "efficiency": used.share if used else None,
        "peak_bytes": story.curves["peak_bytes"].last,
        "seconds_left": seconds_left(story),
        "checkpoint": story.saved_step,
        "usd": cost.usd if cost else None,
    }


def _figures(run: RunFacts, numbers: dict[str, float | None], used: Efficiency | None) -> tuple[str, ...]:
    story = run.story
    about = "" if run.cost and run.cost.exact else "about "
    said: dict[str, Callable[[float], str]] = {
        "loss": lambda loss: f"loss {loss:.4f}",
        "validation_loss": lambda loss: f"validation {loss:.4f}",
        "tokens_per_second": lambda speed: f"{speed:,.0f} tokens/s",
        "efficiency": lambda share: f"{used.name if used else ''} {share:.1%}",
        "peak_bytes": lambda size: f"memory {size / 1e9:.2f} GB",
        "seconds_left": lambda seconds: f"about {duration(seconds)} left",
        "checkpoint": lambda step: f"checkpoint of step {step:,}",
        "usd": lambda usd: f"{about}{usd:,.2f} USD",
    }
    of = f"/{story.steps:,}" if story.steps else ""
    known = (say(value) for key, say in said.items() if (value := numbers[key]) is not None)
    return (f"step {story.step:,}{of}", *known)


def _points(series: Series) -> Points:
    return tuple((point.x, point.mean) for point in series.points)


def progress_bar(step: int, steps: int | None, width: int) -> str:
    """Such as ``████▌···· 45 %``; nothing where the steps are not known."""
    if not steps or width < 12:
        return ""
    share = min(1.0, step / steps)
    room = width - 7
    full = int(share * room)
    return "█" * full + "·" * (room - full) + f" {100 * share:4.0f} %"
