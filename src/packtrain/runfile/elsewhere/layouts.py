"""How another trainer's data set names its columns, turns and roles, in a run file's words.

A run file has one `data.columns`, `data.roles` and `data.system` for all sources: where the data sets
of a config differ in one, it is listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from packtrain.runfile.elsewhere.carried import Carried

ROLES = ("system", "user", "assistant", "tool")
#: Roles that are known by these names without a word in the run file.
_KNOWN = {
    "messages": {
        "system": {"system", "developer"}, "user": {"user"}, "assistant": {"assistant"}, "tool": {"tool"},
    },
    "sharegpt": {
        "system": {"system", "developer"},
        "user": {"user", "human"},
        "assistant": {"assistant", "gpt", "chatgpt", "bot", "model", "function_call"},
        "tool": {"tool", "observation", "function", "function_response", "tool_response"},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    format: str | None = None
    """None where the columns tell."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Ours -> the file's, where they differ."""
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ours -> the file's, where they are not known anyway."""
    system: str | None = None


def columns(**theirs: str | None) -> dict[str, str]:
    """Ours -> theirs, without what is not said or the same (but `system`, read where it is named)."""
    return {ours: name for ours, name in theirs.items() if name and (name != ours or ours == "system")}


def talk(
    column: str,
    *,
    role: str | None = None,
    content: str | None = None,
    roles: Mapping[str, Iterable[str]] | None = None,
    **more: str | None,
) -> Layout:
    """A column of turns: of `messages` where it has that name and OpenAI's keys, or else of `sharegpt`."""
    openai = column == "messages" and role in {None, "role"} and content in {None, "content"}
    format = "messages" if openai else "sharegpt"
    plain = (role, content) in {(None, None), ("role", "content"), ("from", "value")}
    named = columns(conversations=None if openai else column, **more)
    if not plain:
        named |= {"role": role or "role", "content": content or "content"}
    new = {
        ours: tuple(dict.fromkeys(name for name in names if name not in _KNOWN[format].get(ours, set())))
        for ours, names in (roles or {}).items()
    }
    return Layout(format, named, {ours: names for ours, names in new.items() if names})


def put_layouts(carried: Carried, layouts: list[Layout], origin: str) -> None:
    """Columns, roles and system prompt, each where it is the same for all; what differs is listed."""
    said: dict[str, list[Any]] = {
        "columns": [dict(each.columns) or None for each in layouts],
        "roles": [_roles(each) or None for each in layouts],
        "system": [each.system for each in layouts],
    }
    for key, values in said.items():
        if all(value == values[0] for value in values):
            carried.put(f"data.{key}", values[0], origin=origin)
            continue
        for index, value in enumerate(values):
            if value:
                carried.leave(
                    f"{origin}[{index}]: {key} {json.dumps(value, ensure_ascii=False)}",
                    f"data.{key} is one for all sources, and these differ; make one file of them",
                )


def _roles(layout: Layout) -> dict[str, Any]:
    return {ours: names[0] if len(names) == 1 else list(names) for ours, names in layout.roles.items()}
