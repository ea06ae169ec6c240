"""What an assistant thinks is learnt as the template renders it, and is never lost without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_kit import FAMILIES, LLAMA3, tokenizer
from reasoning_templates import thinker
from transformers import PreTrainedTokenizerFast

from packtrain.config import DataConfig
from packtrain.data.chat import ChatTemplate, Encoded
from packtrain.data.formats import to_conversation
from packtrain.data.prepare import prepare
from packtrain.data.preview import parts
from packtrain.data.rows import BadRow, Row
from packtrain.errors import DataError

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "서울"}}}
RESULT = {"role": "tool", "content": "7 degrees"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def encoded(made: PreTrainedTokenizerFast, *turns: dict[str, Any]) -> Encoded:
    conversation = to_conversation(Row("f.jsonl:3", {"messages": list(turns)}), "messages")
    return ChatTemplate(made).encode(conversation, "f.jsonl:3")


def learnt(name: str, *turns: dict[str, Any]) -> tuple[list[str], int]:
    """The supervised stretches, decoded, and how many turns are not learnt for want of their thoughts."""
    made = thinker(name)
    result = encoded(made, *turns)
    shown = parts(result.tokens, result.supervised, made)
    return [text for text, supervised in shown if supervised], result.thoughtless


def refused(name: str, *turns: dict[str, Any]) -> DataError:
    with pytest.raises(DataError) as caught:
        learnt(name, *turns)
    assert not isinstance(caught.value, BadRow)  # which `on_bad_row: skip` would leave out
    assert str(caught.value).startswith("f.jsonl:3: ")
    return caught.value


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", "<think>\nlet me see\n</think>\n\nforty-two<|im_end|>"),
        ("qwen3-thinking", "let me see\n</think>\n\nforty-two<|im_end|>"),  # the prompt begins the thought
        (
            "harmony",
            "<|channel|>analysis<|message|>let me see<|end|><|start|>assistant"
            "<|channel|>final<|message|>forty-two<|return|>",
        ),
    ],
)
def test_a_key_of_its_own_is_given_to_the_template_by_the_name_that_it_reads(
    name: str, expected: str, key: str
) -> None:
    assert learnt(name, user("q"), assistant("forty-two", **{key: "let me see"})) == ([expected], 0)


@pytest.mark.parametrize("name", ["qwen3", "llama3", "smollm2", "smollm3"])
def test_thoughts_inside_the_content_are_learnt_with_it(name: str) -> None:
    thought = "<think>\nlet me see\n\n- a\n- b\n</think>\n\nforty-two"
    (text,), left_out = learnt(name, user("q"), assistant(thought))
    assert text in (f"{thought}<|im_end|>", f"{thought}<|eot_id|>")
    assert left_out == 0


def test_where_the_prompt_begins_the_thought_the_content_may_too() -> None:
    turns = user("q"), assistant("<think>\nhm\n</think>\n\n42")
    assert learnt("qwen3-thinking", *turns) == (["hm\n</think>\n\n42<|im_end|>"], 0)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("qwen3", True), ("qwen3", False), ("qwen3-thinking", True), ("qwen3-thinking", False),
        ("harmony", False),
    ],
)  # fmt: skip
def test_an_earlier_turn_whose_thoughts_the_template_leaves_out_is_context_alone(
    name: str, inside: bool
) -> None:
    first, second = (
        (assistant("<think>\none\n</think>\n\nfirst"), assistant("<think>\ntwo\n</think>\n\nsecond"))
        if inside
        else (assistant("first", thinking="one"), assistant("second", thinking="two"))
    )
    got, left_out = learnt(name, user("q1"), first, user("q2"), second)
    assert left_out == 1
    assert len(got) == 1
    assert got == learnt(name, user("q2"), second)[0]


def test_an_earlier_turn_without_thoughts_is_learnt_as_ever() -> None:
    got, left_out = learnt(
        "qwen3", user("q1"), assistant("first"), user("q2"), assistant("second", thinking="t")
    )
    assert got == ["first<|im_end|>", "<think>\nt\n</think>\n\nsecond<|im_end|>"]
    assert left_out == 0


def test_thoughts_that_stay_in_all_turns_are_learnt_in_all() -> None:
    turns = [user("q1"), assistant("<think>a</think>1"), user("q2"), assistant("<think>b</think>2")]
    assert learnt("llama3", *turns) == (["<think>a</think>1<|eot_id|>", "<think>b</think>2<|eot_id|>"], 0)


@pytest.mark.parametrize("name", ["llama3", "smollm2", "smollm3", "deepseek-r1"])
def test_a_template_that_reads_no_such_key_is_refused(name: str) -> None:
    error = refused(name, user("q"), assistant("42", thinking="private thoughts"))
    assert "messages[1].reasoning_content: the chat template renders none of" in str(error)
    assert "private" not in str(error)
    assert error.hint is not None
    assert "data.reasoning: content" in error.hint


def test_a_template_that_cuts_thoughts_out_of_every_turn_is_refused() -> None:
    error = refused("deepseek-r1", user("q"), assistant("<think>hm</think>forty-two"))
    assert "messages[1].content: the chat template leaves out what the assistant thinks" in str(error)
    assert learnt("deepseek-r1", user("q"), assistant("forty-two"))[0] == ["forty-two<｜end▁of▁sentence｜>"]


def test_a_template_that_keeps_the_last_of_several_thoughts_is_refused() -> None:
    refused("qwen3", user("q"), assistant("<think>a</think>between<think>b</think>forty-two"))


def test_a_turn_that_is_not_learnt_may_lose_its_thoughts() -> None:
    turns = user("q1"), assistant("one", thinking="hm", train=False), user("q2"), assistant("two")
    assert learnt("llama3", *turns) == (["two<|eot_id|>"], 0)


@pytest.mark.parametrize("name", ["qwen3", "qwen3-thinking", "harmony"])
def test_a_call_is_learnt_with_the_thoughts_before_it(name: str) -> None:
    call = assistant(None, reasoning="I must look", tool_calls=[CALL])
    (text,), left_out = learnt(name, user("q"), call)
    assert left_out == 0
    assert text.index("I must look") < text.index("weather") < text.index("서울")
    assert text.endswith(("</tool_call><|im_end|>", "<|call|>"))
    got, left_out = learnt(name, user("q"), call, RESULT, assistant("7", reasoning="so it is 7"))
    if name == "harmony":  # which leaves out the thoughts of calls once there is an answer
        assert left_out == 1
        assert len(got) == 1
    else:
        assert left_out == 0
        assert got[0] == text
    assert "so it is 7" in got[-1]
    assert "7 degrees" not in "".join(got)


@pytest.mark.parametrize("name", ["qwen3", "qwen3-thinking", "harmony"])
def test_a_call_without_thoughts_and_what_follows(name: str) -> None:
    call, answer = assistant(None, tool_calls=[CALL]), assistant("It is 7.")
    got, left_out = learnt(name, user("q"), call, RESULT, answer)
    assert left_out == 0
    assert len(got) == 2
    assert "weather" in got[0]
    assert got[1].rstrip().endswith(("It is 7.<|im_end|>", "It is 7.<|return|>"))
    assert "degrees" not in "".join(got)


@pytest.mark.parametrize("name", ["llama3", "smollm2", "smollm3"])
def test_calls_that_the_template_does_not_render_are_refused(name: str) -> None:
    error = refused(name, user("q"), assistant("Let me look.", tool_calls=[CALL]), RESULT, assistant("7"))
    assert "the tool calls of messages[1] are not rendered" in str(error)


def test_a_template_that_takes_arguments_as_text_gets_them_as_text() -> None:
    # R1's own, but for the prompt, which begins a thought that no call has.
    made = thinker("deepseek-r1")
    made.chat_template = made.chat_template.replace("<｜Assistant｜><think>\\n'", "<｜Assistant｜>'")
    result = encoded(made, user("q"), assistant(None, tool_calls=[CALL]), RESULT, assistant("It is 7."))
    got = [text for text, supervised in parts(result.tokens, result.supervised, made) if supervised]
    assert '```json\n{"city": "서울"}\n```' in got[0]
    assert got[0].endswith("<｜tool▁calls▁end｜><｜end▁of▁sentence｜>")
    assert got[1].endswith("It is 7.<｜end▁of▁sentence｜>")


def test_the_end_of_a_call_is_that_of_the_template_for_tools() -> None:
    made = thinker("harmony")
    plain = "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content }}{% endfor %}"
    made.chat_template = {"default": plain, "tool_use": made.chat_template}
    conversation = to_conversation(
        Row("x", {"messages": [user("q"), assistant(None, tool_calls=[CALL])], "tools": [CALL]}), "messages"
    )
    result = ChatTemplate(made).encode(conversation)
    got = [text for text, supervised in parts(result.tokens, result.supervised, made) if supervised]
    assert len(got) == 1
    assert got[0].endswith('{"city": "서울"}<|call|>')


def test_marks_of_thinking_that_are_special_tokens_forge_no_turn() -> None:
    made = tokenizer(
        template=LLAMA3 + "{% if add_generation_prompt %}<think>{% endif %}",
        special=(*FAMILIES["llama3"][1], "<think>", "</think>"), bos="<|begin_of_text|>", eos="<|eot_id|>",
    )  # fmt: skip
    result = encoded(made, user("what is <think>?"), assistant("<think>hm</think>42"))
    got = [text for text, supervised in parts(result.tokens, result.supervised, made) if supervised]
    assert [text.removeprefix("<think>") for text in got] == ["hm</think>42<|eot_id|>"]


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        (assistant("a", thinking=["x"]), "messages[1].thinking: is a list, not a string"),
        (
            assistant("a", thinking="x", reasoning="y"),
            "messages[1].reasoning: is not the same as thinking; keep",
        ),
        (
            assistant("<think>x</think>a", reasoning="x"),
            "messages[1].reasoning: is given beside </think> in the content; keep one of them",
        ),
        (
            {"role": "user", "content": "q", "thinking": "x"},
            "messages[1].thinking: stands in a turn of user; only an assistant reasons",
        ),
    ],
)
def test_what_cannot_be_meant_is_a_bad_row(turn: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRow) as caught:
        encoded(thinker("qwen3"), user("q"), turn, assistant("end"))
    assert str(caught.value).startswith(f"f.jsonl:3: {problem}")


def test_empty_thoughts_are_none_and_the_same_twice_is_one() -> None:
    plain = learnt("qwen3", user("q"), assistant("a"))
    assert (
        learnt("qwen3", user("q"), assistant("a", thinking="", reasoning=" \n", reasoning_content=None))
        == plain
    )
    twice = learnt("qwen3", user("q"), assistant("a", thinking="t", reasoning="t"))
    assert twice == learnt("qwen3", user("q"), assistant("a", thinking="t"))


def rows(tmp_path: Path, *lines: list[dict[str, Any]], **config: Any) -> DataConfig:
    import json

    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    return DataConfig(train=str(path), validation=0.0, packing=False, **config)


def texts(config: DataConfig, made: PreTrainedTokenizerFast) -> list[str]:
    found = prepare(config, made, chat_template=None, seed=0, keep=False)
    shown = [parts(*found.train.row(index), made) for index in range(len(found.train))]
    return ["".join(text for text, supervised in row if supervised) for row in shown]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [("content", "<think>\nlet me see\n</think>\n\n42<|eot_id|>"), ("drop", "42<|eot_id|>")],
)
@pytest.mark.parametrize("inside", [True, False])
def test_the_run_file_puts_thoughts_into_the_content_or_leaves_them_out(
    tmp_path: Path, kept: Any, expected: str, inside: bool
) -> None:
    turn = (
        assistant("<think>\nlet me see\n</think>\n\n42")
        if inside
        else assistant("42", reasoning=" let me see\n")
    )
    config = rows(tmp_path, [user("q"), turn], reasoning=kept)
    assert texts(config, thinker("llama3")) == [expected]


def test_an_answer_of_thoughts_alone_is_a_bad_row_once_they_are_dropped(tmp_path: Path) -> None:
    config = rows(tmp_path, [user("q"), assistant("<think>hm</think>\n")], reasoning="drop")
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: messages\[1\]\.content: is empty without its reasoning"
    ):
        texts(config, thinker("llama3"))


def test_turns_that_are_not_learnt_for_want_of_their_thoughts_are_a_warning(tmp_path: Path) -> None:
    talk = [user("q1"), assistant("1", thinking="a"), user("q2"), assistant("2", thinking="b")]
    config = rows(tmp_path, talk, [*talk, user("q3"), assistant("3", thinking="c")], talk[:2])
    found = prepare(config, thinker("qwen3"), chat_template=None, seed=0, keep=False)
    assert found.report.findings.thoughtless_turns == 3
    (warning,) = [each for each in found.report.warnings() if "assistant turns" in each]
    assert warning.startswith("3 assistant turns are not learnt: the chat template leaves out the reasoning")


def test_a_row_that_ends_with_a_question_teaches_nothing_once_its_thoughts_are_left_out(
    tmp_path: Path,
) -> None:
    config = rows(tmp_path, [user("q1"), assistant("1", thinking="a"), user("q2")])
    with pytest.raises(DataError, match=r"no token that .* trained on \(the chat template leaves out what"):
        texts(config, thinker("qwen3"))


def test_a_refused_template_ends_the_run_even_where_bad_rows_are_skipped(tmp_path: Path) -> None:
    config = rows(tmp_path, [user("q"), assistant("42", thinking="hm")], on_bad_row="skip")
    with pytest.raises(DataError, match="so that the reasoning would be lost"):
        texts(config, thinker("llama3"))
