"""How a chat template takes an assistant's calls of tools: found by rendering one, as all else is.

A template may want the arguments as an object or as JSON text, may end a call with another token than an
answer, or may know no calls at all: then a row that teaches one would teach to say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from packtrain.data.masks import SENTINEL, Markers, Message, Render, RenderError, Span, UnmaskableError

A_TOOL: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look.",
            "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
        },
    }
]


def _probe(arguments: Any) -> tuple[Message, ...]:
    call = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": arguments}}
    return {"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}


def wants_text(render: Render) -> bool:
    """Whether the template takes arguments as JSON text alone."""
    for arguments in ({"x": SENTINEL}, json.dumps({"x": SENTINEL})):
        try:
            if SENTINEL in render(_probe(arguments), False):
                return isinstance(arguments, str)
        except RenderError:
            continue
    return False


def end_of_call(render: Render, markers: Markers, as_text: bool) -> str | None:
    """The last special token behind a call, where nothing but white space follows it."""
    arguments = {"x": SENTINEL}
    try:
        text = render(_probe(json.dumps(arguments) if as_text else arguments), False)
    except RenderError:
        return None
    _, called, after = text.partition(SENTINEL)
    found = list(markers.special.finditer(after)) if called else []
    return found[-1][0] if found and not after[found[-1].end() :].strip() else None


def with_text(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with arguments as JSON text."""
    return tuple(
        {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    )


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False, default=str)
    return {**call, "function": {**function, "arguments": arguments}}


def check_rendered(
    messages: Sequence[Message], trained: Sequence[int], text: str, spans: Sequence[Span]
) -> None:
    """:class:`~.masks.UnmaskableError` for a turn that is learnt and whose calls are not in it."""
    for index, (start, end) in zip(trained, spans, strict=True):
        for call in messages[index].get("tool_calls", ()):
            if call["function"]["name"] not in text[start:end]:
                raise UnmaskableError(f"the tool calls of messages[{index}] are not rendered")
