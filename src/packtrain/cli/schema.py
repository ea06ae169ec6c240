"""``packtrain schema``: the JSON Schema of a run file, for editors to complete and check it."""

from __future__ import annotations

from typing import Annotated

import typer

from packtrain.cli.output import print_json


def schema(
    as_json: Annotated[
        bool, typer.Option("--json", help="As every verb has it; a schema always is JSON.")
    ] = False,
) -> None:
    """Print the JSON Schema of a run file.

    Save it, and begin a run file with `# yaml-language-server: $schema=FILE`: editors then complete
    its keys and show what they mean.
    """
    del as_json
    from packtrain import runfile

    print_json(runfile.schema())
