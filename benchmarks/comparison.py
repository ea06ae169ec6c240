"""From the runs of a comparison to its table: medians, spread, ratios. Pure; imports nothing but Python.

A ratio is taken within each round, in which the contestants ran one after another under the same
conditions, and then over the rounds: what else the machine did in one round falls on both sides of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Of several measurements of one thing."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = sorted(values)
        if not found:
            raise ValueError("there is nothing to take a median of")
        return cls(median(found), found[0], found[-1])

    def text(self, digits: int) -> str:
        """``12.3 (11.9–12.8)``; the median alone where all are the same."""
        one = f"{self.median:,.{digits}f}"
        least, most = f"{self.least:,.{digits}f}", f"{self.most:,.{digits}f}"
        return one if least == most else f"{one} ({least}–{most})"


@dataclass(frozen=True)
class Row:
    """One contestant over all rounds."""

    name: str
    rounds: int
    tokens_a_step: float
    cpu_seconds_a_step: Spread
    tokens_per_cpu_second: Spread
    """Useful tokens: those that are not padding."""
    tokens_per_second: Spread
    """The same by the clock on the wall."""
    peak_rss_bytes: Spread
    first_loss: float | None


@dataclass(frozen=True)
class Ratio:
    ours: str
    rival: str
    speed: Spread
    """Useful tokens per CPU second, ours over the rival's: above 1 is faster."""
    wall: Spread
    memory: Spread
    """Peak resident memory, ours over the rival's: below 1 is less."""


Rounds = Sequence[Mapping[str, Mapping[str, Any]]]
"""For each round, what each contestant's process printed (:class:`measured.Measured`), by name."""


def rows(rounds: Rounds) -> list[Row]:
    """One for each contestant, in the order of its first run."""
    names = list(dict.fromkeys(name for each in rounds for name in each))
    return [_row(name, [each[name] for each in rounds if name in each]) for name in names]


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    return Row(
        name=name,
        rounds=len(runs),
        tokens_a_step=median(run["useful_tokens"] / run["steps"] for run in runs),
        cpu_seconds_a_step=Spread.of(run["cpu_seconds"] / run["steps"] for run in runs),
        tokens_per_cpu_second=Spread.of(_speed(run) for run in runs),
        tokens_per_second=Spread.of(_wall(run) for run in runs),
        peak_rss_bytes=Spread.of(float(run["peak_rss_bytes"]) for run in runs),
        first_loss=next((run["losses"][0] for run in runs if run.get("losses")), None),
    )


def ratios(rounds: Rounds, rivals: Mapping[str, Sequence[str]]) -> list[Ratio]:
    """Of each of ours to each of its rivals that ran in the same rounds."""
    found = []
    for ours, others in rivals.items():
        for rival in others:
            pairs = [(each[ours], each[rival]) for each in rounds if ours in each and rival in each]
            if pairs:
                found.append(
                    Ratio(
                        ours,
                        rival,
                        Spread.of(_speed(mine) / _speed(theirs) for mine, theirs in pairs),
                        Spread.of(_wall(mine) / _wall(theirs) for mine, theirs in pairs),
                        Spread.of(
                            mine["peak_rss_bytes"] / theirs["peak_rss_bytes"] for mine, theirs in pairs
                        ),
                    )
                )
    return found


def _speed(run: Mapping[str, Any]) -> float:
    return float(run["useful_tokens"] / run["cpu_seconds"])


def _wall(run: Mapping[str, Any]) -> float:
    return float(run["useful_tokens"] / run["wall_seconds"])


def table(rounds: Rounds, rivals: Mapping[str, Sequence[str]]) -> str:
    """The whole as Markdown."""
    made = markdown(
        ("", "CPU s a step", "useful tokens per CPU s", "per second (wall)", "peak RSS, GB", "first loss"),
        [
            (
                row.name,
                row.cpu_seconds_a_step.text(1),
                row.tokens_per_cpu_second.text(1),
                row.tokens_per_second.text(1),
                _gigabytes(row.peak_rss_bytes).text(1),
                "" if row.first_loss is None else f"{row.first_loss:.4f}",
            )
            for row in rows(rounds)
        ],
    )
    compared = ratios(rounds, rivals)
    if not compared:
        return made
    return f"{made}\n\n" + markdown(
        ("", "useful tokens per CPU s, ×", "per second (wall), ×", "peak RSS, ×"),
        [
            (f"{each.ours} / {each.rival}", each.speed.text(2), each.wall.text(2), each.memory.text(2))
            for each in compared
        ],
    )


def _gigabytes(value: Spread) -> Spread:
    return Spread(value.median / 1e9, value.least / 1e9, value.most / 1e9)


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_json(rounds: Rounds, rivals: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What :func:`table` shows, and the rounds themselves, as plain data."""
    return {
        "rows": [asdict(row) for row in rows(rounds)],
        "ratios": [asdict(ratio) for ratio in ratios(rounds, rivals)],
        "rounds": [dict(each) for each in rounds],
    }
