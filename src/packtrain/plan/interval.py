"""A number that is not known exactly: the least, what is expected, and the most that it is likely to be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    low: float
    expected: float
    high: float

    def __post_init__(self) -> None:
        assert self.low <= self.expected <= self.high, self

    @classmethod
    def exactly(cls, value: float) -> Interval:
        return cls(value, value, value)

    @classmethod
    def sum(cls, parts: Iterable[Interval]) -> Interval:
        """As if all of them were low, or high, together: no error is hoped to cancel another."""
        total = cls(0.0, 0.0, 0.0)
        for part in parts:
            total = total + part
        return total

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, other: float | Interval) -> Interval:
        """Of numbers that are not negative."""
        by = other if isinstance(other, Interval) else Interval.exactly(other)
        return Interval(self.low * by.low, self.expected * by.expected, self.high * by.high)

    def widened(self, share: float) -> Interval:
        """By an error of ``share`` (0 to 1) to both sides."""
        return Interval(self.low * (1 - min(1.0, share)), self.expected, self.high * (1 + share))

    def to_json(self, digits: int = 2) -> dict[str, float]:
        return {
            "low": round(self.low, digits),
            "expected": round(self.expected, digits),
            "high": round(self.high, digits),
        }
