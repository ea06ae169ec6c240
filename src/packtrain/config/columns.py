"""Which columns each format of `data` has, and what `data.columns` and `data.roles` may say of them.

The columns stand here, beside the other keys of a run file, so that a wrong name is told with its line
before any row is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

#: Format -> the columns of a row that it reads; `system` only where it is named, but for `sharegpt`.
COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "tools", "system"),
    "sharegpt": ("conversations", "tools", "system"),
    "dolly": ("instruction", "response", "context", "system"),
    "alpaca": ("instruction", "output", "input", "system"),
    "prompt-completion": ("prompt", "completion", "tools", "system"),
    "text": ("text",),
}
#: Keys of one turn, in the formats that have turns.
IN_TURNS = ("role", "content", "reasoning_content", "tool_calls", "train")
WITH_TURNS = ("messages", "sharegpt", "prompt-completion")

Name = Literal[
    "messages", "conversations", "system", "tools", "instruction", "context", "response", "input", "output",
    "prompt", "completion", "text", "role", "content", "reasoning_content", "tool_calls", "train",
]  # fmt: skip
Theirs = Annotated[str, Field(min_length=1)]
Role = Literal["system", "user", "assistant", "tool"]


def formats_with(columns: Mapping[Name, str]) -> list[str]:
    """The formats that have every column (and, for keys of turns, turns) that ``columns`` names."""
    wanted = set(columns) - set(IN_TURNS)
    turns = bool(set(columns) & set(IN_TURNS))
    return [name for name, own in COLUMNS.items() if wanted <= set(own) and (not turns or name in WITH_TURNS)]


def wrong(
    format: str, columns: Mapping[Name, str], roles: Mapping[Role, str | list[str]], system: str | None
) -> str | None:
    """The first thing that cannot be meant, as ``key: sentence``; None where all is well."""
    return (
        _twice(columns)
        or (_of_no_format(columns) if format == "auto" else _of_another(format, columns))
        or _roles(format, roles)
        or (
            "data.system: rows of format text are no conversations, which it could begin"
            if system is not None and format == "text"
            else None
        )
    )


def _twice(columns: Mapping[Name, str]) -> str | None:
    for keys in (set(columns) - set(IN_TURNS), set(columns) & set(IN_TURNS)):
        seen: dict[str, str] = {}
        for ours, theirs in columns.items():
            if ours in keys and seen.setdefault(theirs, ours) != ours:
                return f"data.columns.{ours}: {theirs} is {seen[theirs]} already; a column is one thing"
    return None


def _of_no_format(columns: Mapping[Name, str]) -> str | None:
    if formats_with(columns):
        return None
    known = "; ".join(f"{name} has {', '.join(own)}" for name, own in COLUMNS.items())
    return f"data.columns: {', '.join(columns)} are not of one format ({known})"


def _of_another(format: str, columns: Mapping[Name, str]) -> str | None:
    for ours in columns:
        if ours in IN_TURNS and format not in WITH_TURNS:
            return f"data.columns.{ours}: rows of format {format} have no turns"
        if ours not in (*IN_TURNS, *COLUMNS[format]):
            own = ", ".join(COLUMNS[format])
            return f"data.columns.{ours}: the format {format} has no column {ours}; it has {own}"
    return None


def _roles(format: str, roles: Mapping[Role, str | list[str]]) -> str | None:
    seen: dict[str, str] = {}
    for role, names in roles.items():
        if format not in ("auto", *WITH_TURNS):
            return f"data.roles.{role}: rows of format {format} have no turns"
        for name in [names] if isinstance(names, str) else names:
            if seen.setdefault(name, role) != role:
                return f"data.roles.{role}: {name} is {seen[name]} already; a name is one role"
    return None
