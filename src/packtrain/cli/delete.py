"""``packtrain delete RUN.yaml``: take a run's objects out of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.output import confirm, note, print_json


def delete(
    run: Annotated[Path, typer.Argument(help="The run file.", show_default=False)],
    set_: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a key.", metavar="KEY=VALUE")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Its checkpoints, events and logs in the bucket, too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Take a run's objects out of the cluster; with --data its state in the bucket, too.

    A published adapter stays.
    """
    from packtrain.kube.access import connect
    from packtrain.kube.control import delete as remove
    from packtrain.kube.control import find
    from packtrain.runfile import load

    config = load(run, set_ or []).config
    with connect(config) as cluster:
        found = find(cluster, config, data=data)
        lines = found.lines()
        if lines:
            note("\n".join(["To be removed:", *(f"  {line}" for line in lines)]))
            if found.running:
                note("The run has not ended; it is stopped first, and saves its state.")
            confirm("Remove all of this?", yes=yes)
            remove(cluster, config, found, note if as_json else typer.echo)
        elif not as_json:
            note(f"Nothing of the run {config.name} is there.")
    if as_json:
        print_json({"name": config.name, "removed": lines, "left": found.left(config)})
