"""``packtrain report RUN …``: the page about a run, or about several beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A run's folder, its run file, or its place in a bucket; several are compared.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write.",
            show_default="report.html in the run's folder; here for several runs or a bucket",
            metavar="FILE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the page about a run: one file that needs no network. Of several runs: beside each other."""
    from packtrain.cli.output import print_json
    from packtrain.run.reports import write_comparison, write_one

    path = write_one(runs[0], output) if len(runs) == 1 else write_comparison(runs, output)
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
        return
    typer.echo(str(path))
