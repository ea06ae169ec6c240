"""What an assistant thinks before it answers: in a key of its own, or as ``<think>…</think>`` in the content.

The model has to write it, so that it is learnt with the answer. Whether the chat template renders it is
looked up, never assumed. Two things may go wrong, and neither is silent. A template that renders no
reasoning at all would teach to answer without it: that is an error. Many templates leave out the
reasoning of earlier turns, as servers do between questions: such a turn is context, as it stands there,
and not learnt, since the model does not write its answer without having thought.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from packtrain.data.masks import SENTINEL, Render, RenderError, Span, trained_turns
from packtrain.data.messages import END_OF_THOUGHT, REASONING, Message, Problem

_TAG = re.compile(r"</?think>")
KEY = REASONING[0]
#: Special tokens in some vocabularies.
THINK = frozenset({"<think>", END_OF_THOUGHT})
Kept = Literal["template", "content", "drop"]


class VanishedError(ValueError):
    """The template does not render the reasoning of a turn; ``field`` names it."""

    def __init__(self, field: str, problem: str, hint: str) -> None:
        super().__init__(f"{field}: {problem}, so that the reasoning would be lost")
        self.hint = f"{hint}, or name a template that renders it with model.chat_template"


def placed(messages: Sequence[Message], kept: Kept) -> tuple[Message, ...]:
    """As ``data.reasoning`` says: as it stands, in front of the content, or left out.

    Errors: :class:`~.messages.Problem` for an answer of which nothing is left.
    """
    if kept == "template":
        return tuple(messages)
    made = []
    for index, message in enumerate(messages):
        rest = {key: value for key, value in message.items() if key != KEY}
        content = message["content"]
        if message["role"] == "assistant" and kept == "drop" and END_OF_THOUGHT in content:
            rest["content"] = content.rpartition(END_OF_THOUGHT)[2].lstrip()
            if not rest["content"].strip() and "tool_calls" not in message:
                raise Problem(f"messages[{index}].content", "is empty without its reasoning")
        if kept == "content" and KEY in message:
            rest["content"] = f"<think>\n{message[KEY].strip()}\n</think>\n\n{content}"
        made.append(rest)
    return tuple(made)


def key_of(render: Render) -> str | None:
    """The key that the template reads, found by rendering; None where it reads none of them."""
    for key in REASONING:
        probe = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a", key: SENTINEL})
        try:
            if SENTINEL in render(probe, False):
                return key
        except RenderError:
            continue
    return None


def spelled(messages: Sequence[Message], key: Callable[[], str | None]) -> tuple[Message, ...]:
    """With the template's own key; an error for a turn that is learnt where it has none."""
    if not any(KEY in message for message in messages):
        return tuple(messages)
    theirs = key()
    made = []
    for index, message in enumerate(messages):
        rest = {name: value for name, value in message.items() if name != KEY}
        if KEY in message and theirs is not None:
            rest[theirs] = message[KEY]
        elif KEY in message and message.get("train", True):
            raise VanishedError(
                f"messages[{index}].{KEY}",
                f"the chat template renders none of {', '.join(REASONING)}",
                "data.reasoning: content puts it before the answer, drop leaves it out",
            )
        made.append(rest)
    return tuple(made)


def learnt(
    messages: Sequence[Message],
    spelled_out: Sequence[Message],
    text: str,
    spans: Sequence[Span],
    render: Render,
) -> tuple[list[Span], int]:
    """The spans without those of turns whose reasoning the template left out, and how many these are.

    ``messages`` and ``spelled_out`` are the same turns, these as the template gets them. Errors:
    :class:`VanishedError` for reasoning that is not even rendered where nothing follows it.
    """
    kept: list[Span] = []
    for index, (start, end) in zip(trained_turns(messages), spans, strict=True):
        thoughts = _thoughts(messages[index])
        if _in_order(thoughts, text[start:end]):
            kept.append((start, end))
        elif not _last_shows(thoughts, spelled_out[: index + 1], render):
            raise VanishedError(
                f"messages[{index}].{KEY if KEY in messages[index] else 'content'}",
                "the chat template leaves out what the assistant thinks",
                "data.reasoning: drop leaves it out of the rows, too",
            )
    return kept, len(spans) - len(kept)


def _thoughts(message: Message) -> list[str]:
    """All that has to stand in the rendering, in this order."""
    if KEY in message:
        return [message[KEY].strip()]
    content = message["content"]
    if END_OF_THOUGHT not in content:
        return []
    return [part for each in _TAG.split(content) if (part := each.strip())]


def _last_shows(thoughts: list[str], messages: Sequence[dict[str, Any]], render: Render) -> bool:
    """Whether the template renders them where nothing follows that turn."""
    try:
        return _in_order(thoughts, render([_plain(each) for each in messages], False))
    except RenderError:
        return False


def _plain(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "train"}


def _in_order(parts: list[str], text: str) -> bool:
    place = 0
    for part in parts:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True
