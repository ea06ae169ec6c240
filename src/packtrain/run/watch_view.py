"""What the live view shows, as values and lines of text: pure, and the same in every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from packtrain.report.facts import RunFacts
from packtrain.report.series import Series
from packtrain.report.story import Story
from packtrain.train.progress import duration

#: Events and lines of a log that are kept.
EVENTS = 50
Points = tuple[tuple[float, float], ...]
#: The dots of a braille character, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_MARGIN = 9


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
    story, numbers = run.story, _numbers(run)
    return View(
        name=run.name,
        run_id=run.run_id,
        place=place,
        status=_status(story),
        over=cluster.over if cluster and cluster.over is not None else story.end is not None,
        step=story.step,
        steps=story.steps,
        numbers=numbers,
        figures=_figures(run, numbers),
        loss=_points(story.curves["loss"]),
        validation=_points(story.validation),
        base=story.base_loss,
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


def _numbers(run: RunFacts) -> dict[str, float | None]:
    story, cost = run.story, run.cost
    return {
        "loss": story.curves["loss"].last,
        "validation_loss": story.validation.last,
        "tokens_per_second": story.curves["tokens_per_second"].last,
        "peak_bytes": story.curves["peak_bytes"].last,
        "seconds_left": seconds_left(story),
        "checkpoint": story.saved_step,
        "usd": cost.usd if cost else None,
    }


def _figures(run: RunFacts, numbers: dict[str, float | None]) -> tuple[str, ...]:
    story = run.story
    about = "" if run.cost and run.cost.exact else "about "
    said: dict[str, Callable[[float], str]] = {
        "loss": lambda loss: f"loss {loss:.4f}",
        "validation_loss": lambda loss: f"validation {loss:.4f}",
        "tokens_per_second": lambda speed: f"{speed:,.0f} tokens/s",
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


def draw_curves(view: View, width: int, height: int) -> list[str]:
    """The losses in ``height`` lines of ``width``: training in braille dots, validation as ``o``.

    The base's loss is a line of dashes, where it lies within reach of the others.
    """
    rows, columns = height - 1, width - _MARGIN
    drawn = view.loss + view.validation
    if rows < 2 or columns < 8 or not drawn:
        return ["There is no step yet."] if not drawn else []
    values = [value for _, value in drawn]
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    last = max(*(x for x, _ in drawn), float(view.steps or 0), 1.0)

    def cell(x: float, value: float, per_column: int, per_row: int) -> tuple[int, int]:
        across = round(x / last * (columns * per_column - 1))
        return across, round((high - value) / (high - low) * (rows * per_row - 1))

    dots = [[0] * columns for _ in range(rows)]
    for x, y in _line([cell(*point, 2, 4) for point in view.loss]):
        dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    grid = [[chr(0x2800 + bits) if bits else " " for bits in row] for row in dots]
    if view.base is not None and low <= view.base <= high:
        row = grid[cell(0, view.base, 1, 1)[1]]
        row[:] = [each if each != " " else "-" for each in row]
    for point in view.validation:
        x, y = cell(*point, 1, 1)
        grid[y][x] = "o"
    labels = {0: high, rows // 2: high - (high - low) * (rows // 2) / (rows - 1), rows - 1: low}
    lines = [
        (f"{labels[at]:>{_MARGIN - 2}.3f} " if at in labels else " " * (_MARGIN - 1)) + "│" + "".join(row)
        for at, row in enumerate(grid)
    ]
    ends = f"{last:,.0f}"
    return [*lines, " " * _MARGIN + "0" + " " * max(1, columns - 1 - len(ends)) + ends]


def _line(cells: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The dots from each to the next."""
    yield from cells[:1]
    for (x, y), (to_x, to_y) in pairwise(cells):
        steps = max(abs(to_x - x), abs(to_y - y), 1)
        for at in range(1, steps + 1):
            yield x + round((to_x - x) * at / steps), y + round((to_y - y) * at / steps)
