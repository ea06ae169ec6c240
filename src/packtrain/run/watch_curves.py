"""Curves in characters: the losses, and below them speed and memory. Pure: numbers in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from packtrain.report.chart import number
from packtrain.run.watch_view import Points, View

#: The dots of a braille character, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BARS = " ▁▂▃▄▅▆▇█"
_MARGIN = 9
#: Lines and columns from which on speed and memory have curves of their own, and the lines' share for them.
TALL, BROAD, SHARE = 18, 60, 0.35


def draw_all(view: View, width: int, height: int) -> list[str]:
    """The losses, and speed and memory as large as there is room for."""
    large = height >= TALL and width >= BROAD
    below = 0 if height < 8 or not view.speed else round(SHARE * height) if large else 2
    key = "Loss: dots training, o validation" + (", - base" if view.base is not None else "")
    losses = draw_losses(view, width, height - 1 - below)
    return [key, *losses, *(_draw_others(view, width, below) if below else ())]


def draw_losses(view: View, width: int, height: int) -> list[str]:
    """In ``height`` lines of ``width``: training in braille dots, validation as ``o``.

    The base's loss is a line of dashes, where it lies within reach of the others.
    """
    if not view.loss + view.validation:
        return ["There is no step yet."]
    return _plot(
        view.loss, width, height, _last(view), "{:.3f}".format, marks=view.validation, base=view.base
    )


def _draw_others(view: View, width: int, height: int) -> list[str]:
    named = (("Speed", "tokens/s", view.speed), ("Memory", "bytes", view.memory))
    if height == 2:
        titles = (f"{name} ({unit})".ljust(len("Speed (tokens/s)")) for name, unit, _ in named)
        return [_bars(title, each[2], width, _last(view)) for title, each in zip(titles, named, strict=True)]
    half = (width - 2) // 2
    columns = [
        [f"{name}: {unit}", *_plot(points, half, height - 1, _last(view), number, from_zero=True)]
        for name, unit, points in named
    ]
    return [
        "  ".join(column[at].ljust(half) if at < len(column) else " " * half for column in columns).rstrip()
        for at in range(height)
    ]


def _last(view: View) -> float:
    """The step at the right end."""
    steps = (x for points in (view.loss, view.validation) for x, _ in points)
    return max(*steps, float(view.steps or 0), 1.0)


def _plot(
    points: Points,
    width: int,
    height: int,
    last: float,
    label: Callable[[float], str],
    *,
    marks: Points = (),
    base: float | None = None,
    from_zero: bool = False,
) -> list[str]:
    """``points`` as a line of dots, ``marks`` as ``o``; the last of the lines is the axis."""
    rows, columns = height - 1, width - _MARGIN
    values = [value for _, value in points + marks]
    if rows < 2 or columns < 8 or not values:
        return []
    low, high = 0.0 if from_zero else min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def cell(x: float, value: float, per_column: int, per_row: int) -> tuple[int, int]:
        across = round(x / last * (columns * per_column - 1))
        return across, round((high - value) / (high - low) * (rows * per_row - 1))

    dots = [[0] * columns for _ in range(rows)]
    for x, y in _line([cell(*point, 2, 4) for point in points]):
        dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    grid = [[chr(0x2800 + bits) if bits else " " for bits in row] for row in dots]
    if base is not None and low <= base <= high:
        row = grid[cell(0, base, 1, 1)[1]]
        row[:] = [each if each != " " else "-" for each in row]
    for point in marks:
        x, y = cell(*point, 1, 1)
        grid[y][x] = "o"
    labels = {0: high, rows // 2: high - (high - low) * (rows // 2) / (rows - 1), rows - 1: low}
    lines = [
        (f"{label(labels[at]):>{_MARGIN - 2}} " if at in labels else " " * (_MARGIN - 1)) + "│" + "".join(row)
        for at, row in enumerate(grid)
    ]
    ends = f"{last:,.0f}"
    return [*lines, " " * _MARGIN + "0" + " " * max(1, columns - 1 - len(ends)) + ends]


def _bars(title: str, points: Points, width: int, last: float) -> str:
    """One line: a bar a column, from zero to the highest; the last value behind it."""
    ends = f" {number(points[-1][1])}" if points else ""
    room = width - len(title) - 1 - len(ends)
    if room < 8 or not points:
        return ""
    heights: list[list[float]] = [[] for _ in range(room)]
    for x, value in points:
        heights[min(room - 1, int(x / last * room))].append(value)
    most, before, bars = max(value for _, value in points) or 1.0, 0.0, ""
    reached = min(room - 1, int(points[-1][0] / last * room))
    for at, values in enumerate(heights):
        before = sum(values) / len(values) if values else before
        bars += _BARS[round(before / most * (len(_BARS) - 1))] if at <= reached else " "
    return f"{title} {bars}{ends}"


def _line(cells: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The dots from each to the next."""
    yield from cells[:1]
    for (x, y), (to_x, to_y) in pairwise(cells):
        steps = max(abs(to_x - x), abs(to_y - y), 1)
        for at in range(1, steps + 1):
            yield x + round((to_x - x) * at / steps), y + round((to_y - y) * at / steps)
