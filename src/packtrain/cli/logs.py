"""``packtrain logs RUN.yaml``: what a run in a cluster prints, or has printed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.output import note


def logs(
    run: Annotated[Path, typer.Argument(help="The run file.", show_default=False)],
    set_: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a key.", metavar="KEY=VALUE")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("-f", "--follow", help="Go on until the run is over, whatever becomes of its pods."),
    ] = False,
    previous: Annotated[bool, typer.Option("--previous", help="Of the attempt before the last one.")] = False,
    every_rank: Annotated[
        bool, typer.Option("--every-rank", help="The last lines of every rank, from the bucket.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as JSON.")] = False,
) -> None:
    """Show what a run in a cluster prints: of all nodes, each line with its node.

    When its pods are gone, the last lines come from the bucket.
    """
    from packtrain.errors import UsageError
    from packtrain.kube.access import connect
    from packtrain.kube.logs import Line, Wanted
    from packtrain.kube.logs import logs as show
    from packtrain.runfile import load

    if follow and (previous or every_rank):
        raise UsageError("--follow is for what is printed now: leave out --previous and --every-rank")
    config = load(run, set_ or []).config
    wanted = Wanted(follow, previous, every_rank)
    nodes = config.cluster.nodes

    def say(line: Line) -> None:
        typer.echo(json.dumps(asdict(line), ensure_ascii=False) if as_json else line.prefixed(nodes))

    show(config, lambda: connect(config), say, wanted, note=note)
