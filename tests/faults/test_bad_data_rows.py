"""Rows broken in many ways: each time one sentence that names place and field, and no content."""

from __future__ import annotations

from typing import Any

import pytest

from packtrain.data.formats import to_conversation
from packtrain.data.rows import BadRow, Row

SECRET = "Schatzkarte"
QUESTION = {"role": "user", "content": SECRET}
ANSWER = {"role": "assistant", "content": SECRET}
HUMAN = {"from": "human", "value": SECRET}


def messages(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


def called(**function: Any) -> dict[str, Any]:
    return messages(QUESTION, {"role": "assistant", "tool_calls": [{"function": function}]})


#: format, the row's fields, the field that is named, what is said of it
BAD_FIELDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("dolly", {"instruction": SECRET}, "response", "is missing (format dolly; the row has instruction)"),
    ("dolly", {}, "instruction", "is missing (format dolly; the row has nothing)"),
    ("dolly", {"instruction": SECRET, "response": ""}, "response", "is empty"),
    ("dolly", {"instruction": SECRET, "response": " \n\t"}, "response", "has only white space"),
    ("dolly", {"instruction": "", "response": SECRET}, "instruction", "is empty"),
    ("dolly", {"instruction": SECRET, "response": 42}, "response", "is a number, not a string"),
    ("dolly", {"instruction": SECRET, "response": None}, "response", "is null, not a string"),
    ("dolly", {"instruction": SECRET, "response": True}, "response", "is true or false, not a string"),
    ("dolly", {"instruction": [SECRET], "response": SECRET}, "instruction", "is a list, not a string"),
    (
        "dolly",
        {"instruction": SECRET, "context": 0, "response": SECRET},
        "context",
        "is a number, not a string",
    ),
    (
        "dolly",
        {"instruction": SECRET, "response": "ab\ud83d"},
        "response",
        "has half a surrogate pair at character 3",
    ),
    (
        "alpaca",
        {"instruction": SECRET, "response": SECRET},
        "output",
        "is missing (format alpaca; the row has instruction, response)",
    ),
    (
        "alpaca",
        {"instruction": SECRET, "input": {"a": 1}, "output": SECRET},
        "input",
        "is an object, not a string",
    ),
    ("text", {"text": ""}, "text", "is empty"),
    ("text", {"text": ["a"]}, "text", "is a list, not a string"),
    ("prompt-completion", {"prompt": SECRET, "completion": ""}, "completion", "is empty"),
    (
        "prompt-completion",
        {"prompt": SECRET, "completion": [QUESTION]},
        "completion",
        "has no assistant turn",
    ),
    ("prompt-completion", {"prompt": [], "completion": SECRET}, "prompt", "is an empty list"),
    (
        "prompt-completion",
        {"prompt": SECRET, "completion": [{"role": "system", "content": "x"}, ANSWER]},
        "completion[0].role",
        "is system, which must come first of all, in the prompt",
    ),
    ("messages", {"messages": SECRET}, "messages", "is a string, not a list of turns"),
    ("messages", messages(), "messages", "is an empty list"),
    ("messages", messages(QUESTION), "messages", "has no assistant turn"),
    (
        "messages",
        messages(QUESTION, SECRET),
        "messages[1]",
        "is a string, not an object with role and content",
    ),
    ("messages", messages({"content": SECRET}, ANSWER), "messages[0].role", "is missing"),
    (
        "messages",
        messages({"role": 1, "content": SECRET}, ANSWER),
        "messages[0].role",
        "is a number, not a string",
    ),
    (
        "messages",
        messages({"role": "usr", "content": SECRET}, ANSWER),
        "messages[0].role",
        "usr is an unknown role; did you mean user?",
    ),
    (
        "messages",
        messages({"role": "gpt", "content": SECRET}, ANSWER),
        "messages[0].role",
        "gpt is an unknown role; did you mean assistant?",
    ),
    (
        "messages",
        messages({"role": "zzz", "content": SECRET}, ANSWER),
        "messages[0].role",
        "zzz is an unknown role; known are system, developer, user, assistant, tool",
    ),
    (
        "messages",
        messages({"role": SECRET * 9, "content": SECRET}, ANSWER),
        "messages[0].role",
        "(a name of 99 characters) is an unknown role; known are system, developer, user, assistant, tool",
    ),
    (
        "messages",
        messages(QUESTION, {"role": "assistant", "content": None}),
        "messages[1].content",
        "is null",
    ),
    ("messages", messages(QUESTION, {"role": "assistant"}), "messages[1].content", "is missing"),
    ("messages", messages(QUESTION, {"role": "assistant", "content": ""}), "messages[1].content", "is empty"),
    (
        "messages",
        messages(QUESTION, {"role": "assistant", "content": "", "tool_calls": []}),
        "messages[1].content",
        "is empty",
    ),
    (
        "messages",
        messages({"role": "user", "content": " "}, ANSWER),
        "messages[0].content",
        "has only white space",
    ),
    (
        "messages",
        messages(QUESTION, {"role": "assistant", "content": 7}),
        "messages[1].content",
        "is a number, not a string",
    ),
    (
        "messages",
        messages({"role": "user", "content": [{"type": "image_url"}]}, ANSWER),
        "messages[0].content[0].type",
        "is image_url; only text can be trained on",
    ),
    (
        "messages",
        messages({"role": "user", "content": [SECRET]}, ANSWER),
        "messages[0].content[0]",
        "is a string, not an object with type and text",
    ),
    (
        "messages",
        messages({"role": "user", "content": [{"type": "text"}]}, ANSWER),
        "messages[0].content[0].text",
        "is null, not a string",
    ),
    (
        "messages",
        messages(QUESTION, {"role": "system", "content": "x"}, ANSWER),
        "messages[1]",
        "is a system turn that does not come first",
    ),
    (
        "messages",
        messages({"role": "system", "content": "x"}, {"role": "developer", "content": "y"}, ANSWER),
        "messages[1]",
        "is a second system turn",
    ),
    (
        "messages",
        messages(QUESTION, ANSWER | {"weight": 0.5}),
        "messages[1].weight",
        "is neither 0 nor 1; a turn is trained or not",
    ),
    (
        "messages",
        messages(QUESTION, ANSWER | {"function_call": {"name": "f"}}),
        "messages[1].function_call",
        "is the old spelling; use tool_calls",
    ),
    (
        "messages",
        messages(QUESTION, ANSWER | {"tool_calls": "f"}),
        "messages[1].tool_calls",
        "is a string, not a list",
    ),
    (
        "messages",
        messages(QUESTION, ANSWER | {"tool_calls": [{"name": "f"}]}),
        "messages[1].tool_calls[0]",
        "has no function, an object with name and arguments",
    ),
    ("messages", called(arguments="{}"), "messages[1].tool_calls[0].function.name", "is null, not a string"),
    (
        "messages",
        called(name="f", arguments="{x"),
        "messages[1].tool_calls[0].function.arguments",
        "is text that is not JSON",
    ),
    (
        "messages",
        called(name="f", arguments="[1]"),
        "messages[1].tool_calls[0].function.arguments",
        "is a list, not an object",
    ),
    (
        "messages",
        messages(QUESTION | {"tool_calls": [{"function": {"name": "f"}}]}, ANSWER),
        "messages[0].tool_calls",
        "stands in a turn of user; only an assistant calls tools",
    ),
    (
        "messages",
        messages(QUESTION, ANSWER) | {"tools": {"name": "f"}},
        "tools",
        "is an object, not a list of functions",
    ),
    ("messages", messages(QUESTION, ANSWER) | {"tools": ["f"]}, "tools[0]", "is a string, not an object"),
    ("messages", messages(QUESTION, ANSWER) | {"tools": "[{"}, "tools", "is text that is not JSON"),
    (
        "messages",
        messages(QUESTION, ANSWER) | {"tools": [{"d": "\udc00"}]},
        "tools",
        "has half a surrogate pair at character 9",
    ),
    ("sharegpt", {"conversations": [HUMAN]}, "conversations", "has no assistant turn"),
    (
        "sharegpt",
        {"conversations": [HUMAN, {"from": "gpt", "value": ""}]},
        "conversations[1].value",
        "is empty",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "humn", "value": "x"}]},
        "conversations[0].from",
        "humn is an unknown role; did you mean human?",
    ),
    (
        "sharegpt",
        {"conversations": [HUMAN, {"from": "function_call", "value": "f(1)"}]},
        "conversations[1].value",
        "is not a tool call in JSON",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "c"},
        "system",
        "is given beside a system turn in conversations",
    ),
]


@pytest.mark.parametrize(("format", "fields", "field", "problem"), BAD_FIELDS)
def test_a_bad_field_is_named(format: str, fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(BadRow) as caught:
        to_conversation(Row("train.jsonl:17", fields), format)
    assert str(caught.value) == f"train.jsonl:17: {field}: {problem}"
    assert (caught.value.place, caught.value.field, caught.value.problem) == (
        "train.jsonl:17",
        field,
        problem,
    )
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
