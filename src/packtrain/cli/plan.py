"""``packtrain plan RUN.yaml``: memory, time and cost before a dollar is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.output import note, print_json


def plan(
    run: Annotated[Path, typer.Argument(help="The run file.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "-s", "--set", help="Override a key, or set one such as plan.gpus=8.", metavar="KEY=VALUE"
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Rank machines, ways to buy them and numbers of nodes.")
    ] = False,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="Find the largest micro-batch that fits.")
    ] = False,
    max_length: Annotated[
        bool, typer.Option("--max-length", help="Find the longest sequence that fits.")
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(help="Show how it goes with the number of GPUs, such as 8..1024.", metavar="FROM..TO"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say what a run needs, how long it takes and what it costs, without a GPU or the weights.

    Ends with 76 where it does not fit, and says what would make it fit.
    """
    from packtrain.plan.ask import Questions, ask, check_fits
    from packtrain.plan.options import split
    from packtrain.plan.shown import lines
    from packtrain.plan.summary import Summary
    from packtrain.run.planned import keep
    from packtrain.runfile import load

    keys, rest = split(set_ or [])
    questions = Questions(compare, max_batch, max_length, scale)
    questions.counts()
    answer = ask(load(run, rest, data=False).config, keys, questions, note)
    keep(answer.plan.config, Summary.of(answer.plan))
    if as_json:
        print_json(answer.to_json())
    else:
        typer.echo("\n".join(lines(answer)))
    check_fits(answer)
