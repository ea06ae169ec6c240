"""``packtrain stage``: the base and the data into the bucket, once, so that pods ask no hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.fetch import _progress
from packtrain.cli.output import note, print_json


def stage(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="Override a key.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URI", help="Copy below this gs:// place or folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy the pinned base and data set to the bucket, so that pods need no hub. Again: only what is new."""
    from packtrain.run.staging import stage as copy
    from packtrain.runfile import load

    config = load(run, overrides or []).config
    with _progress() as on_progress:
        staged = copy(config, to, note, on_progress)
    data = staged.config.data
    of_data = {f"data.train[{number}].revision": each.revision for number, each in enumerate(data.mixture)}
    keys = {
        "model.revision": staged.config.model.revision,
        **(of_data or {"data.revision": data.revision}),
        "cluster.staged": staged.config.cluster.staged,
    }
    if as_json:
        copied = [
            {
                "repository": each.pinned.repository,
                "commit": each.pinned.commit,
                "files": each.files,
                "bytes": each.bytes,
                "sent": each.sent,
            }
            for each in staged.copied
        ]
        print_json({"copied": copied, "left": staged.left, "keys": keys})
        return
    for each in staged.copied:
        typer.echo(
            f"{each.pinned.repository} at {each.pinned.commit[:12]}: {each.files} files, "
            f"{each.bytes / 1e9:.2f} GB, {each.sent / 1e9:.2f} GB of them new; verified"
        )
    for sentence in staged.left:
        typer.echo(sentence)
    typer.echo("Put into the run file, so that pods read these copies:")
    for key, value in keys.items():
        if value is not None:
            typer.echo(f"  {key}: {value}")
