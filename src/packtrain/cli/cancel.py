"""``packtrain cancel RUN.yaml``: stop a run in a cluster, with its state saved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.output import note, print_json


def cancel(
    run: Annotated[Path, typer.Argument(help="The run file.", show_default=False)],
    set_: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a key.", metavar="KEY=VALUE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Stop a run in a cluster, with its state saved; packtrain submit goes on from there."""
    from packtrain.kube.access import connect
    from packtrain.kube.control import cancel as stop
    from packtrain.runfile import load

    config = load(run, set_ or []).config
    with connect(config) as cluster:
        outcome = stop(cluster, config, note if as_json else typer.echo)
    if as_json:
        print_json(asdict(outcome))
