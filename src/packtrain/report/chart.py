"""Line charts as SVG: readable on a phone, in the dark, and without colour (dashes, names at the lines).

The drawing is pure: numbers in, plain values out, which the template writes (and escapes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from packtrain.report.series import Series

#: Of the viewBox; a chart is drawn about as wide as this on a phone and on a screen alike.
WIDTH, HEIGHT = 400.0, 230.0
#: More of them than these would lie over each other.
MOST_DOTS = 40
LEFT, RIGHT, TOP, BOTTOM = 50.0, 70.0, 10.0, 28.0


@dataclass(frozen=True)
class Line:
    label: str
    series: Series
    dots: bool = False
    """Each value has a dot: for those that are few."""


@dataclass(frozen=True)
class Level:
    """One value for the whole width."""

    label: str
    value: float


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """A line in the chart's own units, ready to be written."""

    label: str
    style: int
    """Number of its colour and dashes."""
    path: str
    band: str
    """Outline of the extremes; empty where every value is drawn."""
    dots: tuple[tuple[float, float], ...]
    label_x: float
    label_y: float
    hover: str
    """JSON ``[[x, y, step, value], …]``."""


@dataclass(frozen=True)
class Chart:
    title: str
    unit: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Drawn, ...]
    summary: str
    """What the picture shows, in words: for who does not see it."""
    x_label: str = "step"


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many of them."""
    span = high - low
    assert span > 0 and math.isfinite(span)
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(step * size for step in (1, 2, 2.5, 5, 10) if step * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def number(value: float) -> str:
    """Four digits, with a prefix where it is large: ``1.5 M``."""
    if value == 0:
        return "0"
    size = abs(value)
    for bound, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if size >= bound:
            return f"{value / (bound if bound != 1e4 else 1e3):.4g}{prefix}"
    return f"{value:.4g}" if size >= 1e-3 else f"{value:.2e}".replace("e-0", "e-")


def draw(
    title: str, unit: str, lines: Sequence[Line], levels: Sequence[Level] = (), *, from_zero: bool = False
) -> Chart | None:
    """None where there is nothing to draw."""
    lines = [line for line in lines if line.series.points]
    levels = [level for level in levels if math.isfinite(level.value)]
    if not lines:
        return None
    points = [point for line in lines for point in line.series.points]
    x_low, x_high = min(point.x for point in points), max(point.x for point in points)
    x_low, x_high = (x_low, x_high) if x_high > x_low else (x_low - 0.5, x_high + 0.5)
    lows = [point.low for point in points] + [level.value for level in levels]
    highs = [point.high for point in points] + [level.value for level in levels]
    y_low, y_high = _spread(0.0 if from_zero else min(lows), max(highs))

    def x(value: float) -> float:
        return round(LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    drawn = []
    for style, line in enumerate(lines):
        at = [(x(point.x), y(point.mean), point) for point in line.series.points]
        band = ""
        if not line.series.exact:
            upper = [f"{px},{y(point.high)}" for px, _, point in at]
            lower = [f"{px},{y(point.low)}" for px, _, point in reversed(at)]
            band = "M" + "L".join(upper + lower) + "Z"
        drawn.append(
            Drawn(
                label=line.label,
                style=style,
                path="M" + "L".join(f"{px},{py}" for px, py, _ in at),
                band=band,
                dots=tuple((px, py) for px, py, _ in at)
                if (line.dots and len(at) <= MOST_DOTS) or len(at) == 1
                else (),
                label_x=at[-1][0] + 5,
                label_y=at[-1][1] + 4,
                hover=json.dumps([[px, py, point.x, number(point.mean)] for px, py, point in at]),
            )
        )
    right = WIDTH - RIGHT
    drawn += [
        Drawn(
            label=level.label,
            style=len(lines) + index,
            path=f"M{LEFT},{y(level.value)}L{right},{y(level.value)}",
            band="",
            dots=(),
            label_x=right + 5,
            label_y=y(level.value) + 4,
            hover=json.dumps([[right, y(level.value), None, number(level.value)]]),
        )
        for index, level in enumerate(levels)
    ]
    return Chart(
        title=title,
        unit=unit,
        x_ticks=tuple(Tick(x(tick), f"{tick:,.10g}") for tick in _whole(nice_ticks(x_low, x_high))),
        y_ticks=tuple(Tick(y(tick), number(tick)) for tick in nice_ticks(y_low, y_high)),
        lines=tuple(_apart(drawn)),
        summary=f"{title}: "
        + "; ".join(
            [_told(line) for line in lines] + [f"{level.label} {number(level.value)}" for level in levels]
        ),
    )


def _whole(ticks: list[float]) -> list[float]:
    return [tick for tick in ticks if tick == int(tick)]


def _spread(low: float, high: float) -> tuple[float, float]:
    """With some air, and never empty."""
    if high == low:
        air = abs(high) * 0.1 or 1.0
        return low - air, high + air
    air = (high - low) * 0.04
    return low - (air if low != 0 else 0), high + air


def _told(line: Line) -> str:
    first, last = line.series.points[0], line.series.points[-1]
    return f"{line.label} from {number(first.mean)} to {number(last.mean)}"


def _apart(lines: list[Drawn], least: float = 13.0) -> list[Drawn]:
    """Names at the lines' ends, moved so that none lies over another."""
    from dataclasses import replace

    order = sorted(range(len(lines)), key=lambda index: lines[index].label_y)
    heights = [lines[index].label_y for index in order]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + least)
    over = heights[-1] - (HEIGHT - BOTTOM) if heights else 0
    if over > 0:
        heights[-1] -= over
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - least)
    placed = list(lines)
    for height, index in zip(heights, order, strict=True):
        placed[index] = replace(lines[index], label_y=round(height, 1))
    return placed
