"""``packtrain watch RUN``: a run as it goes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def watch(
    run: Annotated[
        str,
        typer.Argument(help="A run's folder, its run file, or its place in a bucket.", show_default=False),
    ],
    web: Annotated[bool, typer.Option("--web", help="As a page for a browser on this machine.")] = False,
    port: Annotated[
        int, typer.Option(help="For --web.", show_default="a free one", min=0, max=65535, metavar="N")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a change.")] = False,
) -> None:
    """Watch a run as it goes: its curves, speed, memory, events and log. q or Ctrl-C leaves it alone.

    Where the output is no terminal: a plain line a change, until the run has ended.
    """
    from contextlib import suppress

    from packtrain.errors import UsageError
    from packtrain.kube.watching import standing
    from packtrain.run.watching import as_json as in_json
    from packtrain.run.watching import as_lines, as_page, changes, on_terminal

    if web and as_json:
        raise UsageError("--web prints its address alone", hint="leave --json out")
    with suppress(KeyboardInterrupt):  # the way out: nothing is broken off
        if web:
            as_page(run, standing, port, typer.echo)
        elif sys.stdout.isatty() and not as_json:
            on_terminal(run, standing)
        else:
            as_lines(run, standing, typer.echo, in_json if as_json else changes)
