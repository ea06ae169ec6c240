"""What was planned for a run beside what happened, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packtrain.report.efficiency import efficiency
from packtrain.report.story import Story
from packtrain.train.progress import duration


@dataclass(frozen=True)
class PlannedRow:
    what: str
    planned: str
    happened: str


def planned_rows(story: Story) -> list[PlannedRow]:
    """Empty for a run that nobody planned. What has not happened yet is a dash."""
    plan, came = story.plan, story.happened
    if not plan:
        return []
    rows = []
    for key, what in (("seconds", "time, from start to end"), ("training_seconds", "time in steps")):
        if plan.get(key):
            rows.append(PlannedRow(what, _range(plan[key]), duration(came[key]) if came.get(key) else "–"))
    if plan.get("tokens_per_second"):
        speed = came.get("tokens_per_second") or story.curves["tokens_per_second"].mean
        share = f" ({speed / plan['tokens_per_second']:.0%} of what was planned)" if speed else ""
        happened = f"{speed:,.0f} tokens/s{share}" if speed else "–"
        rows.append(PlannedRow("speed", f"{plan['tokens_per_second']:,.0f} tokens/s", happened))
    used = efficiency(story)
    if used is not None and used.planned is not None:
        rows.append(PlannedRow(used.name, f"{used.planned:.1%}", f"{used.share:.1%}"))
    peak = came.get("peak_bytes")
    rows.append(
        PlannedRow("memory", f"{plan['peak_bytes'] / 1e9:.2f} GB", f"{peak / 1e9:.2f} GB" if peak else "–")
    )
    if plan.get("steps"):
        rows.append(PlannedRow("steps", f"{plan['steps']:,}", f"{story.step:,}"))
    if plan.get("usd"):
        usd = plan["usd"]
        told = f"{usd['expected']:,.2f} USD ({usd['low']:,.2f} to {usd['high']:,.2f})"
        rows.append(PlannedRow("cost", told, "see the top, where it is counted"))
    return rows


def _range(seconds: Mapping[str, Any]) -> str:
    low, high = duration(seconds["low"]), duration(seconds["high"])
    return f"{duration(seconds['expected'])} ({low} to {high})"
