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
) -> None:
    """Watch a run as it goes: its curves, speed, memory, events and log. q or Ctrl-C leaves it alone.

    Where the output is no terminal: a plain line a change, until the run has ended.
    """
    from contextlib import suppress

    from packtrain.kube.watching import standing
    from packtrain.run.watching import as_lines, as_page, on_terminal

    with suppress(KeyboardInterrupt):  # the way out: nothing is broken off
        if web:
            as_page(run, standing, port, typer.echo)
        elif sys.stdout.isatty():
            on_terminal(run, standing)
        else:
            as_lines(run, standing, typer.echo)
