"""Rows to conversations: the layouts that instruction data comes in, told apart by their columns.

Every check that needs no tokenizer is here; text passes through unchanged. Messages of a row:
``role`` (system, user, assistant, tool), ``content`` (always a string), and where given ``name``,
``tool_calls``, ``tool_call_id``, ``reasoning_content`` (whatever the row calls it), and ``train``
(False: no loss on this turn).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from packtrain.data.messages import (
    Message,
    Problem,
    check_conversation,
    openai_message,
    sharegpt_message,
    text_of,
)
from packtrain.data.rows import BadRow, Row, shown_names, type_name
from packtrain.errors import DataError

_TURN = re.compile(r"messages\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the tokenizer's chat template gets; or ``text``, which is trained on as it stands."""

    messages: tuple[Message, ...] = ()
    tools: list[Any] | None = None
    text: str | None = None
    front: int = field(default=0, compare=False)
    """Turns in front that are none of the row's list: a system prompt."""

    def behind(self, system: str) -> Conversation:
        """The same, behind a system prompt."""
        messages = ({"role": "system", "content": system}, *self.messages)
        return Conversation(messages, self.tools, front=self.front + 1)

    def in_row(self, said: str) -> str:
        """``said`` with its first ``messages[…]`` counted as the row has them."""
        return _TURN.sub(lambda turn: f"messages[{int(turn[1]) - self.front}]", said, count=1)


@dataclass(frozen=True)
class Format:
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[dict[str, Any]], Conversation]

    def __str__(self) -> str:
        wanted = " and ".join(self.required)
        return f"{wanted} ({', '.join(self.optional)} if you have it)" if self.optional else wanted


def detect_format(fields: dict[str, Any]) -> str:
    """The name of the first format, richest first, whose required columns are all there.

    Errors: DataError with the columns found and what each format wants, and for preference data.
    """
    if "chosen" in fields and "rejected" in fields:
        raise DataError(
            "the columns chosen and rejected are preference data (DPO, KTO), which is not trained on",
            hint="to train on one answer a row, name the layout of the other columns with data.format",
        )
    for name, layout in FORMATS.items():
        if all(column in fields for column in layout.required):
            return name
    found = shown_names(list(fields)) if fields else "none"
    wanted = "; ".join(f"{name} wants {layout}" for name, layout in FORMATS.items())
    raise DataError(
        f"the columns found ({found}) are of no known format: {wanted}",
        hint="say what the file calls them, such as data.columns: {prompt: question, completion: answer}",
    )


def is_text(fields: dict[str, Any]) -> bool:
    """Whether the row is a plain text, and no conversation."""
    return "text" in fields and not any(
        all(column in fields for column in layout.required)
        for name, layout in FORMATS.items()
        if name != "text"
    )


def to_conversation(row: Row, format: str) -> Conversation:
    """The row as a conversation, of a format in :data:`FORMATS`.

    Errors: BadRow with the row's place and the field that is wrong.
    """
    layout = FORMATS[format]
    for column in layout.required:
        if column not in row.fields:
            have = shown_names(list(row.fields)) if row.fields else "nothing"
            raise BadRow(row.place, column, f"is missing (format {format}; the row has {have})")
    try:
        return layout.convert(row.fields)
    except Problem as problem:
        raise BadRow(row.place, problem.field, problem.problem) from None


def _instruction(fields: dict[str, Any], *, question: str, extra: str, answer: str) -> Conversation:
    """The user's turn is the question, and after a blank line the extra text where there is some."""
    asked = text_of(fields[question], question)
    given = _optional_text(fields, extra)
    content = f"{asked}\n\n{given}" if given.strip() else asked
    user = {"role": "user", "content": content}
    return Conversation((user, {"role": "assistant", "content": text_of(fields[answer], answer)}))


def _sharegpt(fields: dict[str, Any]) -> Conversation:
    turns = _turns(fields["conversations"], "conversations", sharegpt_message)
    system = _optional_text(fields, "system")
    if system and any(turn["role"] == "system" for turn in turns):
        raise Problem("system", "is given beside a system turn in conversations")
    check_conversation(turns, "conversations")
    made = Conversation(tuple(turns), _tools(fields))
    return made.behind(system) if system else made


def with_system_column(made: Conversation, fields: dict[str, Any]) -> Conversation:
    """The conversation behind the row's own system prompt, where it has one."""
    system = _optional_text(fields, "system")
    if not system:
        return made
    if any(message["role"] == "system" for message in made.messages):
        raise Problem("system", "is given beside a system turn")
    return made.behind(system)


def _messages(fields: dict[str, Any]) -> Conversation:
    turns = _turns(fields["messages"], "messages", openai_message)
    check_conversation(turns, "messages")
    return Conversation(tuple(turns), _tools(fields))


def _prompt_completion(fields: dict[str, Any]) -> Conversation:
    """Strings are a user's and an assistant's turn; lists are turns as in ``messages``."""
    parts: list[list[Message]] = []
    for column, role in (("prompt", "user"), ("completion", "assistant")):
        value = fields[column]
        if isinstance(value, list):
            parts.append(_turns(value, column, openai_message))
        else:
            parts.append([{"role": role, "content": text_of(value, column)}])
    prompt, completion = parts
    if completion[0]["role"] == "system":
        raise Problem("completion[0].role", "is system, which must come first of all, in the prompt")
    check_conversation(completion, "completion")
    check_conversation(prompt, "prompt", answered=False)
    return Conversation((*prompt, *completion), _tools(fields))


def _text(fields: dict[str, Any]) -> Conversation:
    return Conversation(text=text_of(fields["text"], "text"))


def _optional_text(fields: dict[str, Any], column: str) -> str:
    value = fields.get(column)
    return "" if value is None else text_of(value, column, may_be_empty=True)


def _turns(value: Any, column: str, read: Callable[[Any, str], Message]) -> list[Message]:
    if not isinstance(value, list):
        raise Problem(column, f"is {type_name(value)}, not a list of turns")
    if not value:
        raise Problem(column, "is an empty list")
    return [read(turn, f"{column}[{index}]") for index, turn in enumerate(value)]


def _tools(fields: dict[str, Any]) -> list[Any] | None:
    """The functions that the assistant may call: a list, or (ShareGPT) that list as JSON text."""
    value = fields.get("tools")
    if isinstance(value, str):
        text = text_of(value, "tools", may_be_empty=True).strip()
        try:
            value = json.loads(text) if text else None
        except (ValueError, RecursionError):
            raise Problem("tools", "is text that is not JSON") from None
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise Problem("tools", f"is {type_name(value)}, not a list of functions")
    for index, tool in enumerate(value):
        if not isinstance(tool, dict):
            raise Problem(f"tools[{index}]", f"is {type_name(tool)}, not an object")
    text_of(json.dumps(value, ensure_ascii=False, default=str), "tools")
    return value


#: In the order in which they are looked for: a row with messages may well have a prompt, too.
FORMATS: dict[str, Format] = {
    "messages": Format(("messages",), ("tools",), _messages),
    "sharegpt": Format(("conversations",), ("system", "tools"), _sharegpt),
    "dolly": Format(
        ("instruction", "response"),
        ("context",),
        partial(_instruction, question="instruction", extra="context", answer="response"),
    ),
    "alpaca": Format(
        ("instruction", "output"),
        ("input",),
        partial(_instruction, question="instruction", extra="input", answer="output"),
    ),
    "prompt-completion": Format(("prompt", "completion"), ("tools",), _prompt_completion),
    "text": Format(("text",), (), _text),
}
