"""`data.system`: a system prompt put before every conversation that has none.

Whether the template takes one is looked up by rendering, once, before a row is read: a template that
refuses it would make every row bad, and one that leaves it out would train on something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from packtrain.data.formats import Conversation
from packtrain.data.masks import SENTINEL, Message, RenderError
from packtrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from packtrain.data.chat import ChatTemplate

_OTHERWISE = "put it into the rows' questions, or name another template with model.chat_template"
_TALK = ({"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"})


def with_system(conversation: Conversation, system: str | None) -> Conversation:
    """The conversation, behind ``system`` where no turn of it is a system turn."""
    if system is None or system_turns(conversation):
        return conversation
    return conversation.behind(system)


def system_turns(conversation: Conversation) -> int:
    return sum(message["role"] == "system" for message in conversation.messages)


def leaves_out_system(render: Callable[[Sequence[Message]], str]) -> bool:
    """Whether a template that takes a system turn does not show what it says."""
    try:
        # Words of its own: a real prompt may hold a switch, such as /no_think, that is taken out.
        return SENTINEL not in render(({"role": "system", "content": SENTINEL}, *_TALK))
    except RenderError:  # which is told of each such row, and of data.system
        return False


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
    except RenderError as error:
        raise ConfigError(
            f"data.system: the chat template of model.source takes no system turn: {error}",
            hint=_OTHERWISE,
        ) from error
    if template.leaves_out_system:
        raise ConfigError(
            "data.system: the chat template of model.source leaves a system turn out",
            hint=_OTHERWISE,
        )
