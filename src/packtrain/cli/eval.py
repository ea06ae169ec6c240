"""``packtrain eval``: what was trained and its base on the same rows, prompts and tasks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packtrain.cli.arguments import Adapter, Base
from packtrain.cli.output import note, print_json

if TYPE_CHECKING:
    from packtrain.evaluate.compare import Comparison


def eval(
    adapter: Adapter,
    base: Base = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Rows to measure on: a file, gs://…, a data set's id.",
            show_default="the run's validation rows",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on the first so many rows.")] = None,
    generate: Annotated[
        int,
        typer.Option(
            "--generate", min=0, help="Let both answer so many rows, and compare with the rows' answers."
        ),
    ] = 0,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest such answer, in tokens.")
    ] = 128,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", help="Tasks of lm-eval, by name or as a YAML file.", metavar="TASK"),
    ] = None,
    four_bits: Annotated[
        bool | None,
        typer.Option(
            "--base-in-4-bits/--base-in-full",
            help="How the base stands. In 4 bits needs packtrain[qlora].",
            show_default="as in training",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure an adapter beside its base: loss, perplexity, token accuracy; answers; lm-eval's tasks."""
    from packtrain.artifacts.locate import locate, settings_of
    from packtrain.run.heavy import heavy_imports

    with heavy_imports():
        from packtrain.evaluate.compare import Wanted, compare
        from packtrain.evaluate.tasks import check_tasks, run_tasks

    run = settings_of(adapter)
    check_tasks(tasks or [])
    with tempfile.TemporaryDirectory(prefix="packtrain-eval-") as folder:
        located = locate(adapter, Path(folder) / "adapter")
        for warning in located.warnings:
            note(f"warning: {warning}")
        result: dict[str, Any] = {}
        if run is not None or data is not None or not tasks:
            wanted = Wanted(
                data, limit=limit, generate=generate, max_new_tokens=max_new_tokens, four_bits=four_bits
            )
            compared = compare(located, run, base, wanted, say=note)
            result = compared.to_json()
            if not as_json:
                _show(compared)
        if tasks:
            result["tasks"] = run_tasks(located, base, tasks, limit=limit, say=note, four_bits=four_bits)
    if as_json:
        print_json(result)
    elif tasks:
        _show_tasks(result["tasks"])


def _show(compared: Comparison) -> None:
    from packtrain.evaluate.answers import render_plain, render_table

    base, adapter = compared.base, compared.adapter
    lines: list[tuple[str, float, float]] = [
        ("loss (nats a token)", base.measured.loss, adapter.measured.loss),
        ("perplexity", base.measured.perplexity, adapter.measured.perplexity),
        ("token accuracy", base.measured.accuracy, adapter.measured.accuracy),
    ]
    if base.answers is not None and adapter.answers is not None:
        before, after = base.answers, adapter.answers
        lines += [
            ("exact match", before.exact_match, after.exact_match),
            ("ROUGE-L", before.rouge_l, after.rouge_l),
            (f"words (rows: {before.reference_words:.1f})", before.words, after.words),
        ]
    typer.echo(f"{compared.data}: {compared.rows} rows, {adapter.measured.tokens:,} supervised tokens")
    _table(lines)
    if base.answers is not None:
        typer.echo(f"answers to {base.answers.answers} of the rows")
    if compared.prompts:
        import sys

        if sys.stdout.isatty():
            from rich.console import Console

            Console().print(render_table(compared.prompts))
        else:
            typer.echo(render_plain(compared.prompts))
    if compared.score is not None:
        typer.echo(str(compared.score))


def _show_tasks(tasks: dict[str, dict[str, dict[str, float]]]) -> None:
    for task, sides in tasks.items():
        _table(
            [(f"{task} {metric}", value, sides["adapter"][metric]) for metric, value in sides["base"].items()]
        )


def _table(lines: list[tuple[str, float, float]]) -> None:
    width = max(len(name) for name, _, _ in lines)
    typer.echo(f"{'':{width}}  {'base':>10}  {'adapter':>10}")
    for name, before, after in lines:
        typer.echo(f"{name:{width}}  {before:>10.4f}  {after:>10.4f}")
