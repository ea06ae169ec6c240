"""One message of a conversation, in OpenAI's or ShareGPT's spelling, checked and made uniform."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from packtrain.data.rows import shown_name, type_name

Message = dict[str, Any]

#: OpenAI's ``developer`` is the system message of its newer models.
OPENAI_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
#: The names that ShareGPT dumps and their descendants use.
SHAREGPT_ROLES = OPENAI_ROLES | {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
#: Keys of what an assistant thinks before it answers; the first is what conversations have here.
REASONING = ("reasoning_content", "thinking", "reasoning")
END_OF_THOUGHT = "</think>"


class Problem(ValueError):
    """What is wrong with a field of the row at hand; :func:`~.formats.to_conversation` adds the place."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field, self.problem = field, problem


def text_of(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    """``value``, unchanged, which must be text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise Problem(field, f"is {type_name(value)}, not a string")
    if not may_be_empty and not value.strip():
        raise Problem(field, "has only white space" if value else "is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair ("\ud83d"), mostly of an emoji cut in two.
        raise Problem(field, f"has half a surrogate pair at character {error.start + 1}") from None
    return value


def openai_message(message: Any, field: str) -> Message:
    """``{"role": …, "content": …}``: content a string or a list of text parts."""
    return _message(message, field, ("role", "content"), OPENAI_ROLES)


def sharegpt_message(message: Any, field: str) -> Message:
    """``{"from": …, "value": …}``, or with OpenAI's keys, which many dumps have in this column."""
    openai = isinstance(message, dict) and "from" not in message and "role" in message
    return _message(message, field, ("role", "content") if openai else ("from", "value"), SHAREGPT_ROLES)


def check_conversation(messages: Sequence[Message], field: str, *, answered: bool = True) -> None:
    """System first and once; an assistant turn, where ``answered``. The rest is the template's."""
    for index, message in enumerate(messages):
        if index and message["role"] == "system":
            second = any(other["role"] == "system" for other in messages[:index])
            problem = "is a second system turn" if second else "is a system turn that does not come first"
            raise Problem(f"{field}[{index}]", problem)
    if answered and all(message["role"] != "assistant" for message in messages):
        raise Problem(field, "has no assistant turn")


def _message(message: Any, field: str, keys: tuple[str, str], roles: dict[str, str]) -> Message:
    role_key, content_key = keys
    if not isinstance(message, dict):
        raise Problem(field, f"is {type_name(message)}, not an object with {role_key} and {content_key}")
    said = message.get(role_key)
    role = _role(said, f"{field}.{role_key}", roles)
    where = f"{field}.{content_key}"
    if said == "function_call":
        return {"role": role, "content": "", "tool_calls": _calls_in_text(message.get(content_key), where)}
    if message.get("function_call") is not None:
        raise Problem(f"{field}.function_call", "is the old spelling; use tool_calls")
    calls = _tool_calls(message.get("tool_calls"), f"{field}.tool_calls")
    if calls and role != "assistant":
        raise Problem(f"{field}.tool_calls", f"stands in a turn of {role}; only an assistant calls tools")
    content = _content(message, content_key, where, may_be_empty=bool(calls) or role in ("tool", "system"))
    made: Message = {"role": role, "content": content}
    if calls:
        made["tool_calls"] = calls
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            made[key] = text_of(message[key], f"{field}.{key}", may_be_empty=True)
    if (thoughts := _reasoning(message, made, field)) is not None:
        made[REASONING[0]] = thoughts
    if not _trained(message, role, field):
        made["train"] = False
    return made


def _reasoning(message: Message, made: Message, field: str) -> str | None:
    """What the assistant thinks, from whichever key has it; an empty one says nothing."""
    given = [(key, message[key]) for key in REASONING if message.get(key) is not None]
    texts = {key: text_of(value, f"{field}.{key}", may_be_empty=True) for key, value in given}
    said = {key: text for key, text in texts.items() if text.strip()}
    if not said:
        return None
    (key, text), *others = said.items()
    if made["role"] != "assistant":
        raise Problem(f"{field}.{key}", f"stands in a turn of {made['role']}; only an assistant reasons")
    for other, again in others:
        if again != text:
            raise Problem(f"{field}.{other}", f"is not the same as {key}; keep one of them")
    if END_OF_THOUGHT in made["content"]:
        raise Problem(f"{field}.{key}", f"is given beside {END_OF_THOUGHT} in the content; keep one of them")
    return text


def _trained(message: Message, role: str, field: str) -> bool:
    """Whether the loss falls on an assistant's turn: ``train``, or ``weight`` (0 or 1) as OpenAI has it."""
    said: list[bool] = []
    train, weight = message.get("train"), message.get("weight")
    if train is not None:
        if not isinstance(train, bool):
            raise Problem(f"{field}.train", f"is {type_name(train)}, not true or false")
        if train and role != "assistant":
            raise Problem(f"{field}.train", f"is true in a turn of {role}; only assistant turns are trained")
        said.append(train)
    if weight is not None and role == "assistant":
        if isinstance(weight, bool) or weight not in (0, 1):
            raise Problem(f"{field}.weight", "is neither 0 nor 1; a turn is trained or not")
        said.append(weight == 1)
    if len(set(said)) == 2:
        raise Problem(f"{field}.weight", "says the opposite of train")
    return role != "assistant" or all(said)


def _role(said: Any, field: str, roles: dict[str, str]) -> str:
    if said is None:
        raise Problem(field, "is missing")
    if not isinstance(said, str):
        raise Problem(field, f"is {type_name(said)}, not a string")
    if said in roles:
        return roles[said]
    near = difflib.get_close_matches(said.lower(), roles, n=1)
    meant = SHAREGPT_ROLES.get(said.lower()) or (near[0] if near else None)
    advice = f"did you mean {meant}?" if meant else f"known are {', '.join(roles)}"
    raise Problem(field, f"{shown_name(said)} is an unknown role; {advice}")


def _content(message: Message, key: str, field: str, *, may_be_empty: bool) -> str:
    value = message.get(key)
    if value is None:
        if message.get("tool_calls"):
            return ""
        raise Problem(field, "is null" if key in message else "is missing")
    if not isinstance(value, list):
        return text_of(value, field, may_be_empty=may_be_empty)
    texts = []
    for index, part in enumerate(value):
        place = f"{field}[{index}]"
        if not isinstance(part, dict):
            raise Problem(place, f"is {type_name(part)}, not an object with type and text")
        if part.get("type") != "text":
            raise Problem(f"{place}.type", f"is {shown_name(part.get('type'))}; only text can be trained on")
        texts.append(text_of(part.get("text"), f"{place}.text", may_be_empty=True))
    return text_of("".join(texts), field, may_be_empty=may_be_empty)


def _tool_calls(value: Any, field: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Problem(field, f"is {type_name(value)}, not a list")
    calls = []
    for index, call in enumerate(value):
        place = f"{field}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise Problem(place, "has no function, an object with name and arguments")
        made: dict[str, Any] = {"type": "function", "function": _function(function, f"{place}.function")}
        if call.get("id") is not None:
            made["id"] = text_of(call["id"], f"{place}.id")
        calls.append(made)
    return calls


def _function(function: dict[str, Any], field: str) -> dict[str, Any]:
    """Name and arguments; OpenAI writes the arguments as JSON text, chat templates want an object."""
    name = text_of(function.get("name"), f"{field}.name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            raise Problem(f"{field}.arguments", "is text that is not JSON") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise Problem(f"{field}.arguments", f"is {type_name(arguments)}, not an object")
    text_of(json.dumps(arguments, ensure_ascii=False, default=str), f"{field}.arguments")
    return {"name": name, "arguments": arguments}


def _calls_in_text(value: Any, field: str) -> list[dict[str, Any]]:
    """ShareGPT's ``function_call`` turn: one call, or a list of them, as JSON text."""
    text = text_of(value, field)
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        raise Problem(field, "is not a tool call in JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) for call in calls):
        raise Problem(field, "is not a tool call in JSON, an object with name and arguments")
    return [{"type": "function", "function": _function(call, field)} for call in calls]
