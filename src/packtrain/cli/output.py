"""The few ways in which verbs print, and ask: JSON for programs, sentences for people, notes on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer


def print_json(data: Any) -> None:
    """One JSON value on stdout, for ``--json``."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A line for people, on stderr, so that stdout stays what was asked for."""
    typer.echo(message, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ends the verb unless the answer is yes. Errors: :class:`UsageError` where nobody can be asked."""
    from packtrain.errors import UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here", hint="--yes goes on without asking")
    typer.confirm(question, abort=True, err=True)
