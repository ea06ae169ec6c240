"""Every string of a conversation that a chat template can put into a rendering, with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from packtrain.data.masks import Message


def strings(messages: Sequence[Message], tools: list[Any] | None) -> Iterator[tuple[str, str]]:
    """(field, string) for every string that a row puts into a rendering."""
    for index, message in enumerate(messages):
        for key, value in message.items():
            yield from _strings(f"messages[{index}].{key}", value)
    yield from _strings("tools", tools)


def _strings(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{field} (a key)", str(key)
            yield from _strings(f"{field}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _strings(f"{field}[{index}]", item)
