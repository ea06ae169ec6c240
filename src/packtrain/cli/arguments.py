"""The arguments that several verbs have in common: what was trained, and where its base comes from."""

from __future__ import annotations

from typing import Annotated

import typer

Adapter = Annotated[
    str,
    typer.Argument(
        help="Folder of an adapter (or a model), a run's folder, a run file, or gs://BUCKET/PREFIX."
    ),
]
Base = Annotated[
    str | None, typer.Option("--base", help="Take the base from here: a hub id, a folder, pypi:PACKAGE.")
]
