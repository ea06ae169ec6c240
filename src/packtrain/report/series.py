"""A curve of any length in bounded memory: neighbours are put together, their extremes are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

#: Points of a curve at most: more than a phone or a screen shows.
MOST = 400


@dataclass
class Point:
    """Neighbouring values; one, where nothing was put together."""

    x: float
    """Of the last."""
    low: float
    high: float
    total: float
    count: int = 1

    @property
    def mean(self) -> float:
        return self.total / self.count

    def take(self, other: Point) -> None:
        self.x, self.low, self.high = other.x, min(self.low, other.low), max(self.high, other.high)
        self.total, self.count = self.total + other.total, self.count + other.count


@dataclass
class Series:
    """Values in the order of their x. NaN and infinity cannot be drawn, and are counted."""

    points: list[Point] = field(default_factory=list)
    last: float | None = None
    not_finite: int = 0
    _each: int = 1
    """Values in a point that is full; doubled when there are too many points."""

    def add(self, x: float, value: float) -> None:
        if not math.isfinite(value):
            self.not_finite += 1
            return
        self.last = value
        new = Point(x, value, value, value)
        if self.points and self.points[-1].count < self._each:
            self.points[-1].take(new)
            return
        if len(self.points) == MOST:
            for pair in range(0, MOST, 2):
                self.points[pair].take(self.points[pair + 1])
            del self.points[1::2]
            self._each *= 2
        self.points.append(new)

    @property
    def exact(self) -> bool:
        """Whether every point is one value."""
        return self._each == 1

    @property
    def count(self) -> int:
        return sum(point.count for point in self.points)

    @property
    def mean(self) -> float | None:
        return sum(point.total for point in self.points) / self.count if self.points else None
