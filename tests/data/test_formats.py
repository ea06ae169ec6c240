"""Each format's rows become the conversation that they mean, unchanged to the character."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from packtrain.data.formats import FORMATS, Conversation, detect_format, to_conversation
from packtrain.data.rows import Row
from packtrain.data.sources import open_source
from packtrain.errors import DataError

DOLLY = Path(__file__).resolve().parents[2] / "../shared/data/dolly-14k.jsonl.gz"


def convert(fields: dict[str, Any], format: str | None = None) -> Conversation:
    return to_conversation(Row("x.jsonl:1", fields), format or detect_format(fields))


def pair(question: str, answer: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


@pytest.mark.parametrize(
    ("format", "fields", "question"),
    [
        ("dolly", {"instruction": "Q", "context": "C", "response": "A"}, "Q\n\nC"),
        ("dolly", {"instruction": "Q", "context": "", "response": "A"}, "Q"),
        ("dolly", {"instruction": "Q", "context": None, "response": "A"}, "Q"),
        ("dolly", {"instruction": "Q", "context": " \n", "response": "A"}, "Q"),
        ("dolly", {"instruction": "Q", "response": "A", "category": "open_qa"}, "Q"),
        ("alpaca", {"instruction": "Q", "input": "C", "output": "A", "text": "all of it"}, "Q\n\nC"),
        ("alpaca", {"instruction": "Q", "output": "A"}, "Q"),
        ("prompt-completion", {"prompt": "Q", "completion": "A"}, "Q"),
    ],
)
def test_single_turns(format: str, fields: dict[str, Any], question: str) -> None:
    assert detect_format(fields) == format
    assert convert(fields).messages == pair(question, "A")


def test_sharegpt_roles_system_and_tools() -> None:
    fields = {
        "system": "S",
        "tools": '[{"name": "f"}]',
        "conversations": [
            {"from": "human", "value": "Q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "42"},
            {"from": "gpt", "value": "A"},
        ],
    }
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    conversation = convert(fields)
    assert conversation.tools == [{"name": "f"}]
    assert conversation.messages == (
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "A"},
    )


def test_sharegpt_column_with_openai_keys() -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert convert({"conversations": turns}).messages == pair("Q", "A")


def test_messages_with_parts_tools_and_several_turns() -> None:
    fields = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "messages": [
            {"role": "developer", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "?"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": ""},
            {"role": "assistant", "content": "A", "reasoning_content": "because"},
            {"role": "user", "content": "more?"},
        ],
    }
    conversation = convert(fields)
    assert conversation.tools == fields["tools"]
    assert [message["role"] for message in conversation.messages] == [
        "system", "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip
    assert conversation.messages[1]["content"] == "Q?"
    assert conversation.messages[2]["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": {}}, "id": "c1"}
    ]
    assert conversation.messages[3] == {"role": "tool", "content": "", "name": "f", "tool_call_id": "c1"}
    assert conversation.messages[4]["reasoning_content"] == "because"


def test_prompt_and_completion_as_lists_of_turns() -> None:
    fields = {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
        "completion": [{"role": "assistant", "content": "A"}],
    }
    assert convert(fields).messages == ({"role": "system", "content": "S"}, *pair("Q", "A"))


def test_text_stands_as_it_is() -> None:
    assert convert({"text": "  once upon\n"}) == Conversation(text="  once upon\n")


@pytest.mark.parametrize(
    "text", ["안녕하세요, 세계", "👩‍👩‍👧 🐎", "e\u0301 cafe\u0301", "\u200fשלום", " a\ttab \x00 ", "ﬁ ½"]
)
def test_text_passes_through_unchanged(text: str) -> None:
    assert convert({"instruction": text, "context": text, "response": text}).messages == pair(
        f"{text}\n\n{text}", text
    )


@pytest.mark.parametrize(
    ("columns", "format"),
    [
        (("prompt", "messages"), "messages"),
        (("messages", "conversations"), "messages"),
        (("conversations", "text"), "sharegpt"),
        (("instruction", "output", "response"), "dolly"),
        (("prompt", "completion", "text"), "prompt-completion"),
    ],
)
def test_of_several_formats_the_richest_is_taken(columns: tuple[str, ...], format: str) -> None:
    assert detect_format(dict.fromkeys(columns)) == format


def test_no_known_format_lists_columns_and_what_each_format_wants() -> None:
    with pytest.raises(DataError) as caught:
        detect_format({"question": "private words", "x" * 60: "private"})
    message = str(caught.value)
    assert message.startswith(
        "the columns found (question, (a name of 60 characters)) are of no known format"
    )
    assert "private" not in message
    for name, layout in FORMATS.items():
        assert f"{name} wants {layout.required[0]}" in message


@pytest.mark.skipif(not DOLLY.exists(), reason="real dolly rows are not here")
def test_all_of_dolly_converts_and_quickly() -> None:
    source = open_source(str(DOLLY))
    start = time.process_time()
    conversations = [to_conversation(row, "dolly") for row in source if isinstance(row, Row)]
    spent = time.process_time() - start
    assert len(conversations) == 14_015
    assert spent < 1.5, f"{spent:.2f} s of CPU time for 14,015 rows"
