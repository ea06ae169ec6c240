"""``packtrain data``: the training data as the model sees it, checked and counted, without training."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packtrain.cli.output import note, print_json

if TYPE_CHECKING:
    from packtrain.data.preview import Part


def data(
    run: Annotated[Path, typer.Argument(help="The run file.")],
    preview: Annotated[
        int,
        typer.Option(
            "--preview",
            min=0,
            metavar="N",
            help="Show the first N rows (of each source) as the model sees them.",
        ),
    ] = 0,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print lengths, supervised share and packing (default).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key of the run file."),
    ] = None,
) -> None:
    """Show the training data as the model sees it.

    Reads and checks every row as a training run would; with --preview alone, or data.streaming, only the
    first rows.
    What the model is trained on is green on a terminal, and stands in ⟦…⟧ elsewhere.
    """
    from packtrain import runfile
    from packtrain.data.chat import template_text
    from packtrain.data.prepare import prepare
    from packtrain.data.preview import parts
    from packtrain.data.streaming import sample
    from packtrain.model.weights import load_tokenizer, resolve_base
    from packtrain.run.heavy import tokenizer_imports

    config = runfile.load(run, set_ or []).config
    base = resolve_base(config.model, weights=False)
    with tokenizer_imports(own_code=config.model.trust_remote_code):
        tokenizer = load_tokenizer(base, config.model)
    section = config.data
    first_only = bool(preview and not stats and not as_json)
    if first_only:
        first = min(preview, section.limit or preview)
        section = section.model_copy(update={"limit": first, "validation": 0.0})
    template, seed = template_text(config.model.chat_template), config.train.seed
    if section.streaming:
        prepared = sample(section, tokenizer, chat_template=template, seed=seed)
    else:
        prepared = prepare(section, tokenizer, chat_template=template, seed=seed, keep=not first_only)
    rows = prepared.train
    first_of_each = [int(index) for part in prepared.parts for index in part[:preview]]
    shown = [(rows.places[index], parts(*rows.row(index), tokenizer)) for index in first_of_each]
    if as_json:
        previews = [
            {"place": place, "parts": [{"text": text, "supervised": trained} for text, trained in row]}
            for place, row in shown
        ]
        print_json(prepared.report.to_json() | ({"preview": previews} if preview else {}))
        return
    for place, row in shown:
        typer.echo(f"--- {place}: {sum(len(text) for text, _ in row):,} characters")
        typer.echo(_painted(row) + "\n")
    if stats or not preview:
        typer.echo("\n".join(prepared.report.lines()))
    for warning in prepared.report.warnings():
        note(f"warning: {warning}")


def _painted(row: list[Part]) -> str:
    from packtrain.data.preview import marked, visible

    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return marked(row)
    return "".join(
        typer.style(visible(text), fg="green", bold=True) if trained else visible(text)
        for text, trained in row
    )
