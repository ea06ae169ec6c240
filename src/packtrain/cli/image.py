"""``packtrain image build``: the trainer's container image, by Cloud Build or on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.output import note, print_json


def build(
    run: Annotated[Path, typer.Argument(help="The run file.")],
    local: Annotated[
        bool, typer.Option("--local", help="Build here, with docker, podman or buildah, and push.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="IMAGE", help="Base image with Python 3.11. Default: python:3.11-slim."
        ),
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option("--context", metavar="DIR", help="Write the build context there and build nothing."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands and the image's name; run nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key of the run file."),
    ] = None,
) -> None:
    """Build the container image of a run and push it to its registry.

    The tag is made from the image's content: what is there already is not built again.
    """
    from packtrain import runfile
    from packtrain.gcp.commands import Programs
    from packtrain.gcp.image import make
    from packtrain.gcp.image.recipe import recipe

    planned = recipe(runfile.load(run, set_ or []).config, base)
    if context is not None:
        planned.context.write(context)
        note(f"{context} holds the build context of {planned.image}")
    if dry_run:
        typer.echo(make.shown(planned, Programs(), local=local, folder=context))
    if dry_run or context is not None:
        return
    record = make.make(planned, Programs(), note, local=local)
    if as_json:
        print_json(record.to_json())
    else:
        typer.echo(record.reference)
    if planned.needs_naming:
        note(f"a run uses it with: cluster.image: {planned.image}")
