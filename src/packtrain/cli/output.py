"""The few ways in which verbs print: JSON for programs, sentences for people, notes on stderr."""

from __future__ import annotations

import json
from typing import Any

import typer


def print_json(data: Any) -> None:
    """One JSON value on stdout, for ``--json``."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A line for people, on stderr, so that stdout stays what was asked for."""
    typer.echo(message, err=True)
