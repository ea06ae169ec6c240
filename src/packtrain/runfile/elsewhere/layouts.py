"""How another trainer's data set names its columns, turns and roles, in a run file's words.

A run file has one `data.columns` and `data.roles` for all sources: where the data sets of a config
differ, what differs is listed.
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
    """One set of columns, roles and system prompt for all sources; what differs is listed."""
    first, same = layouts[0], len({_text(each) for each in layouts}) == 1
    if same:
        carried.put("data.columns", dict(first.columns) or None, origin=origin)
        roles = {ours: names[0] if len(names) == 1 else list(names) for ours, names in first.roles.items()}
        carried.put("data.roles", roles or None, origin=origin)
        carried.put("data.system", first.system, origin=origin)
        return
    for index, each in enumerate(layouts):
        for key, value in (("columns", each.columns), ("roles", each.roles), ("system", each.system)):
            if value:
                carried.leave(
                    f"{origin}[{index}]: {key} {json.dumps(value, ensure_ascii=False)}",
                    f"data.{key} is one for all sources, and these differ; make one file of them",
                )


def _text(layout: Layout) -> str:
    facts: list[Any] = [layout.format, dict(layout.columns), dict(layout.roles), layout.system]
    return json.dumps(facts, sort_keys=True)
