"""`data.system`: a system prompt put before every conversation that has none.

Whether the template takes one is looked up by rendering, once, before a row is read: a template that
refuses it would make every row bad, and one that leaves it out would train on something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packtrain.data.formats import Conversation
from packtrain.data.masks import SENTINEL, RenderError
from packtrain.data.rows import BadRow
from packtrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from packtrain.data.chat import ChatTemplate

_TURN = re.compile(r"messages\[(\d+)\]")
_OTHERWISE = "put it into the rows' questions, or name another template with model.chat_template"
_TALK = ({"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"})


def with_system(conversation: Conversation, system: str | None) -> Conversation:
    """The conversation, or one that begins with ``system`` where no turn of it is a system turn."""
    if not lacks_system(conversation, system):
        return conversation
    messages = ({"role": "system", "content": system}, *conversation.messages)
    return Conversation(messages, conversation.tools)


def lacks_system(conversation: Conversation, system: str | None) -> bool:
    """Whether :func:`with_system` puts one in front."""
    if system is None or conversation.text is not None:
        return False
    return all(message["role"] != "system" for message in conversation.messages)


def as_in_the_row(bad: BadRow) -> BadRow:
    """The same, with turns counted as the row has them, without the system prompt in front."""
    field = _TURN.sub(lambda turn: f"messages[{int(turn[1]) - 1}]", bad.field, count=1)
    return BadRow(bad.place, field, bad.problem)


def check_system(template: ChatTemplate, system: str | None, format: str) -> None:
    """ConfigError where the template refuses a system prompt, or leaves it out; DataError for texts."""
    if system is None:
        return
    if format == "text":
        raise DataError(
            "data.system: rows of format text are no conversations, which it could begin",
            hint="leave data.system out, or name another layout with data.format",
        )
    if forged := template.control_token(system):
        raise ConfigError(f"data.system: holds the control token {forged}, which would forge a turn")
    if not template.has_template:
        return  # which is told with the first row
    try:
        template.render(({"role": "system", "content": system}, *_TALK))
        shown = template.render(({"role": "system", "content": SENTINEL}, *_TALK))
    except RenderError as error:
        raise ConfigError(
            f"data.system: the chat template of model.source takes no system turn: {error}",
            hint=_OTHERWISE,
        ) from error
    if SENTINEL not in shown:  # the prompt itself may hold a switch, such as /no_think, that is taken out
        raise ConfigError(
            "data.system: the chat template of model.source leaves a system turn out",
            hint=_OTHERWISE,
        )
