"""``packtrain explain RUN``: why a run ended as it did, and what to do next."""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    run: Annotated[
        str,
        typer.Argument(help="A run's folder, its run file, or its place in a bucket.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say in a paragraph why a run ended as it did, and what to do next.

    From its events and exit codes; and from its pods, for a run file that names a cluster.
    """
    from packtrain.cli.output import note, print_json
    from packtrain.kube.explain import explained

    told = explained(run)
    if as_json:
        print_json(told.to_json())
        return
    typer.echo(told.paragraph)
    for unseen in told.notes:
        note(f"not seen: {unseen}")
