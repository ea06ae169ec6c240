"""Where the assistant's turns stand in a rendered conversation, whatever the template.

The method is told in :mod:`packtrain.data.chat`; here it is pure text: a function that renders
messages goes in, character spans come out. Nothing is guessed: a span that cannot be shown to be
the turn is an :class:`UnmaskableError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
#: ``render(messages, add_generation_prompt)``; raises :class:`RenderError`.
Render = Callable[[Sequence[Message], bool], str]
Span = tuple[int, int]
"""First character and the one after the last."""

#: Stands in for a message's content; plain letters, so that no template treats it in its own way.
SENTINEL = "packtrainSentinelContent"


class RenderError(ValueError):
    """The template refuses these messages."""


class UnmaskableError(ValueError):
    """What the assistant writes cannot be told apart from the rest of the rendering."""


@dataclass(frozen=True)
class Markers:
    """The tokens that no text of a message may hold once it is rendered."""

    special: re.Pattern[str]
    """Any special token of the tokenizer."""
    stops: frozenset[str]
    """Those that end an assistant's turn; looked for behind tool calls, which may hold others."""


def trained_turns(messages: Sequence[Message]) -> list[int]:
    """Of the messages those that the loss falls on."""
    return [
        index
        for index, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("train", True)
    ]


def assistant_spans(messages: Sequence[Message], render: Render, markers: Markers) -> tuple[str, list[Span]]:
    """The rendering of ``messages`` and, in it, the span of every assistant turn.

    A span goes from where the model begins to generate through the end-of-turn token; a turn with
    ``train: False`` has none, and the template does not see that key. Errors: :class:`RenderError`,
    :class:`UnmaskableError`.
    """
    trained = set(trained_turns(messages))
    messages = [{key: value for key, value in each.items() if key != "train"} for each in messages]
    text = render(messages, False)
    spans: list[Span] = []
    for index in range(len(messages)):
        if index not in trained:
            continue
        start, end = _span(text, messages, index, render, markers)
        if start < (spans[-1][1] if spans else 0):
            raise UnmaskableError(f"two assistant turns overlap in the rendering at messages[{index}]")
        spans.append((start, end))
    return text, spans


def _span(text: str, messages: Sequence[Message], index: int, render: Render, markers: Markers) -> Span:
    message = messages[index]
    generation_start = _generation_start(text, messages, index, render)
    if generation_start is not None:
        content = message.get("content")
        body = content.strip() if isinstance(content, str) else ""
        begin = _after_blanks(text, generation_start) if body else generation_start
        if text.startswith(body, begin):
            end = _end_of_turn(text, begin + len(body), messages, index, render, markers)
            if end is not None:
                return generation_start, end
    # The template changes the answer (thoughts cut out or put in), or writes a header that the
    # generation prompt lacks, or writes this turn otherwise when it is the last one.
    around = _around(messages, index, render)
    if around is None:
        raise UnmaskableError(f"the content of messages[{index}] is not rendered exactly once")
    before, after = around
    content_end = len(text) - len(after)
    if not text.endswith(after):
        raise UnmaskableError(f"the text after messages[{index}] depends on its content")
    if generation_start is not None and _has_generation_prompt(messages[:index], render):
        start = generation_start
    elif text.startswith(before):
        # A space in front belongs to the first token of the answer in most vocabularies.
        start = len(before.rstrip(" "))
    else:
        raise UnmaskableError(f"the text before messages[{index}] depends on its content")
    if content_end < start and not text[content_end:start].strip() and not message.get("content"):
        content_end = start  # white space that the template shares between the header and what follows
    if content_end < start:
        raise UnmaskableError(f"the content of messages[{index}] is not in the rendering")
    end = _end_of_turn(text, content_end, messages, index, render, markers)
    if end is None:
        raise UnmaskableError(
            f"no special token ends the turn of messages[{index}], so that the model would not learn to stop"
        )
    return start, end


def _generation_start(text: str, messages: Sequence[Message], index: int, render: Render) -> int | None:
    """Where in ``text`` the model begins to generate turn ``index``, if the generation prompt tells."""
    prompt = _rendered(render, messages[:index], True)
    if prompt is None:
        return None
    if text.startswith(prompt):
        return len(prompt)
    # What is far above may be written otherwise (tools that move to the last turn): compare only
    # what follows the content of the message before.
    whole = _around(messages, index - 1, render)
    part = _around(messages[:index], index - 1, render, add_generation_prompt=True)
    if whole is None or part is None or not text.startswith(whole[0]) or not text.endswith(whole[1]):
        return None
    return len(text) - len(whole[1]) + len(part[1]) if whole[1].startswith(part[1]) else None


def _has_generation_prompt(messages: Sequence[Message], render: Render) -> bool:
    return _rendered(render, messages, True) != _rendered(render, messages, False)


def _end_of_turn(
    text: str, content_end: int, messages: Sequence[Message], index: int, render: Render, markers: Markers
) -> int | None:
    """The character after the token that ends the turn whose content ends at ``content_end``."""
    if not messages[index].get("tool_calls"):
        match = markers.special.search(text, content_end)
        return match.end() if match and not text[content_end : match.start()].strip() else None
    limit = len(text)
    if index + 1 < len(messages):
        following = _around(messages, index + 1, render)
        if following is None or not text.startswith(following[0]):
            raise UnmaskableError(f"it is not clear where messages[{index + 1}] begins")
        limit = len(following[0])
    for match in markers.special.finditer(text, content_end, limit):
        if match[0] in markers.stops:
            return match.end()
    return None


def _around(
    messages: Sequence[Message], index: int, render: Render, *, add_generation_prompt: bool = False
) -> tuple[str, str] | None:
    """What is rendered before and after the content of one message, if that is rendered once."""
    stand_in = [*messages[:index], {**messages[index], "content": SENTINEL}, *messages[index + 1 :]]
    shown = _rendered(render, stand_in, add_generation_prompt)
    parts = [] if shown is None else shown.split(SENTINEL)
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _rendered(render: Render, messages: Sequence[Message], add_generation_prompt: bool) -> str | None:
    try:
        return render(messages, add_generation_prompt) if messages else None
    except RenderError:
        return None


def _after_blanks(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start
