"""The page about one run, or about several beside each other: one file that needs nothing else."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from packtrain.report.chart import Chart, Level, Line, draw, number
from packtrain.report.efficiency import efficiency
from packtrain.report.explain import explain
from packtrain.report.facts import RunFacts
from packtrain.report.planned import planned_rows
from packtrain.report.story import Story
from packtrain.report.timeline import draw_timeline
from packtrain.train.progress import duration

if TYPE_CHECKING:
    from jinja2 import Environment

#: Runs that a comparison can tell apart: by so many dashes.
MOST_RUNS = 8
LETTERS = "ABCDEFGH"


def render_run(run: RunFacts, *, refresh: int | None = None) -> str:
    """``refresh``: seconds after which a browser asks for the page again."""
    return _render(
        "run.html.j2",
        refresh=refresh,
        title=run.name,
        run=run,
        story=run.story,
        paragraph=explain(run.story, finishing=run.here),
        figures=_figures(run),
        charts=_charts(run.story),
        timeline=draw_timeline(run.story),
        planned=planned_rows(run.story),
        histogram=_histogram(run.story.data),
        left_out=_left_out(run.story.data),
    )


def render_comparison(runs: Sequence[RunFacts]) -> str:
    """Errors: ValueError for more runs than can be told apart."""
    if len(runs) > MOST_RUNS:
        raise ValueError(f"{len(runs)} runs cannot be told apart on one axis; {MOST_RUNS} can")
    names = _names(runs)
    return _render(
        "compare.html.j2",
        refresh=None,
        title=" · ".join(names),
        names=names,
        runs=runs,
        charts=_compared(runs),
        differing=_differing([run.settings for run in runs]),
        same=_same([run.settings for run in runs]),
        metrics=_metrics(runs),
    )


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("packtrain.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "value": _value}
    return environment


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figures(run: RunFacts) -> list[tuple[str, str]]:
    story = run.story
    figures = [("steps", f"{story.step:,} of {story.steps:,}" if story.steps else f"{story.step:,}")]
    if story.loss is not None:
        before = f"{story.base_loss:.4f} → " if story.base_loss is not None else ""
        figures.append(("validation loss", f"{before}{story.loss:.4f}"))
    elif story.curves["loss"].last is not None:
        figures.append(("training loss", f"{story.curves['loss'].last:.4f}"))
    judged = [answer for answer in story.answers if answer["right_after"] is not None]
    if judged:
        before = sum(answer["right_before"] for answer in judged)
        after = sum(answer["right_after"] for answer in judged)
        figures.append(("right answers", f"{before} → {after} of {len(judged)}"))
    figures.append(("tokens", f"{story.tokens:,}"))
    speed = story.curves["tokens_per_second"].mean
    if speed is not None:
        figures.append(("tokens/s", f"{speed:,.0f}"))
    used = efficiency(story)
    if used is not None:
        figures.append((used.name, f"{used.share:.1%}"))
    figures.append(("time", duration(story.attempt_seconds)))
    if run.cost is not None:
        figures.append(("cost so far", f"{'' if run.cost.exact else 'about '}{run.cost.usd:,.2f} USD"))
    return figures


def _charts(story: Story) -> list[Chart]:
    curves, plan = story.curves, story.plan
    base = [Level("base", story.base_loss)] if story.base_loss is not None else []
    speed = [Level("planned", plan["tokens_per_second"])] if plan.get("tokens_per_second") else []
    on_gpu = str(story.start.get("device", "")).startswith("cuda")
    memory = [Level("planned", plan["peak_bytes"])] if on_gpu and plan.get("peak_bytes") else []
    drawn = [
        draw(
            "Loss",
            "nats a token",
            [Line("train", curves["loss"]), Line("validation", story.validation, dots=True)],
            base,
        ),
        draw("Learning rate", "", [Line("rate", curves["learning_rate"])], from_zero=True),
        draw("Gradient norm", "before clipping", [Line("norm", curves["grad_norm"])], from_zero=True),
        draw(
            "Speed", "tokens a second", [Line("measured", curves["tokens_per_second"])], speed, from_zero=True
        ),
        draw(
            "Memory",
            "bytes, highest so far" + (", of a GPU" if on_gpu else ", of the main process"),
            [Line("peak", curves["peak_bytes"])],
            memory,
            from_zero=True,
        ),
    ]
    return [chart for chart in drawn if chart is not None]


def _histogram(data: Mapping[str, Any]) -> list[tuple[float, float, int, str]]:
    """Bars of the training rows' lengths: left and height in percent, rows, and the range in tokens."""
    counts, most = data.get("lengths") or [], data.get("max_length", 0)
    if not counts or not any(counts):
        return []
    width = most / len(counts)
    return [
        (
            100 * index / len(counts),
            100 * count / max(counts),
            count,
            f"{index * width:,.0f} to {(index + 1) * width:,.0f}",
        )
        for index, count in enumerate(counts)
    ]


def _left_out(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was skipped or cut, and why."""
    found = data.get("findings") or {}
    told = [
        (found.get("bad_rows", 0), "rows", "bad, and left out"),
        (found.get("too_long_rows", 0), "rows", "longer than data.max_length, and left out"),
        (found.get("unsupervised_rows", 0), "rows", "left out: the cut took all that is trained on"),
        (found.get("weightless_rows", 0), "rows", "left out: their weight is 0"),
        (found.get("truncated_rows", 0), "rows", "longer than data.max_length, and cut"),
        (found.get("truncated_tokens", 0), "tokens", "lost by the cut"),
        (found.get("thoughtless_turns", 0), "turns", "not learnt: the chat template drops their reasoning"),
        (found.get("unheard_turns", 0), "system turns", "never seen: the chat template leaves them out"),
        ((data.get("duplicates") or {}).get("rows", 0), "rows", "in training more than once"),
        ((data.get("overlap") or {}).get("rows", 0), "rows", "in both validation and training"),
    ]
    return [(f"{count:,} {what}", why) for count, what, why in told if count]


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """Each run's letter, which stands at its lines, and its name; where two have one, the id's end."""
    names = [run.name for run in runs]
    return [
        f"{letter}: {name}" if names.count(name) == 1 else f"{letter}: {name} …{run.run_id[-4:]}"
        for letter, name, run in zip(LETTERS, names, runs, strict=False)
    ]


def _compared(runs: Sequence[RunFacts]) -> list[Chart]:
    titles = (
        ("loss", "Training loss", "nats a token", False),
        ("learning_rate", "Learning rate", "", True),
        ("grad_norm", "Gradient norm", "before clipping", True),
        ("tokens_per_second", "Speed", "tokens a second", True),
        ("peak_bytes", "Memory", "bytes, highest so far", True),
    )
    together = list(zip(LETTERS, runs, strict=False))
    drawn = [
        draw(
            "Validation loss",
            "nats a token",
            [Line(name, run.story.validation, dots=True) for name, run in together],
        )
    ]
    drawn += [
        draw(title, unit, [Line(name, run.story.curves[curve]) for name, run in together], from_zero=zero)
        for curve, title, unit, zero in titles
    ]
    return [chart for chart in drawn if chart is not None]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    keys = sorted({key for each in settings for key in each})
    rows = [(key, [_value(each.get(key)) for each in settings]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _same(settings: Sequence[Mapping[str, Any]]) -> int:
    return len({key for each in settings for key in each}) - len(_differing(settings))


def _metrics(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    table: dict[str, list[str]] = {}
    columns = [dict([("ended", run.story.outcome), *_figures(run)]) for run in runs]
    for key in dict.fromkeys(key for column in columns for key in column):
        table[key] = [column.get(key, "–") for column in columns]
    return list(table.items())
