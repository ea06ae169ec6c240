"""``packtrain cancel RUN.yaml``: stop a run in a cluster, with its state saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cancel(
    run: Annotated[Path, typer.Argument(help="The run file.", show_default=False)],
    set_: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a key.", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Stop a run in a cluster, with its state saved; packtrain submit goes on from there."""
    from packtrain.kube.access import connect
    from packtrain.kube.control import cancel as stop
    from packtrain.runfile import load

    config = load(run, set_ or []).config
    with connect(config) as cluster:
        stop(cluster, config, typer.echo)
