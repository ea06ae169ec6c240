"""The mask holds what the assistant says and its end of turn, whatever the template."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chat_kit import FAMILIES, sentencepiece_like, tokenizer
from transformers import PreTrainedTokenizerFast

from packtrain.data.chat import ChatTemplate
from packtrain.data.formats import Conversation
from packtrain.data.preview import parts
from packtrain.data.rows import BadRow
from packtrain.errors import DataError

END = {
    "smollm2": "<|im_end|>", "llama3": "<|eot_id|>", "llama3-first": "<|eot_id|>", "llama32": "<|eot_id|>",
    "llama2": " </s>", "mistral": "</s>", "gemma": "<end_of_turn>", "qwen25": "<|im_end|>",
    "qwen3": "<|im_end|>", "deepseek": "<｜end▁of▁sentence｜>", "phi3": "<|end|>", "zephyr": "</s>",
    "harmony": "<|return|>", "no-prompt": "<|im_end|>",
}  # fmt: skip
#: What the model itself writes before the answer.
LEAD = {"llama2": " ", "qwen3": "<think>\n\n</think>\n\n", "harmony": "<|channel|>final<|message|>"}
ANSWERS = {
    "plain": "The answer is 42.",
    "korean": "서울은 대한민국의 수도이다.",
    "emoji": "👩‍👩‍👧‍👦 é (e + ◌́: é) 🇰🇷",
    "one": "A",
    "lines": "first\n\n  second\n\tthird",
    "echo": "assistant user system What is it?",
    "markup": "a < b <|im_ end|> </think",
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def trained(family: str, *messages: dict[str, Any], tools: list[Any] | None = None) -> list[str]:
    """The supervised stretches, decoded."""
    made = tokenizer(family)
    encoded = ChatTemplate(made).encode(Conversation(tuple(messages), tools))
    return [text for text, supervised in parts(encoded.tokens, encoded.supervised, made) if supervised]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_answer_and_its_end_are_supervised_and_nothing_else(family: str, answer: str) -> None:
    text = ANSWERS[answer]
    if family == "qwen3" and answer == "markup":
        text = text.removesuffix("</think")
    expected = LEAD.get(family, "") + (text.strip() if family in ("llama3", "gemma") else text) + END[family]
    assert trained(family, user("What is it?"), assistant(text)) == [expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_turn_of_a_conversation_is_supervised(family: str) -> None:
    turns = [
        user("q1"),
        assistant("first answer"),
        user("q2"),
        assistant("second"),
        user("q3"),
        assistant("third"),
    ]
    end, lead = END[family], LEAD.get(family, "")
    early_lead, early_end = lead, end
    if family == "qwen3":
        early_lead = ""
    if family == "harmony":
        early_end = "<|end|>"
    assert trained(family, *turns) == [
        f"{early_lead}first answer{early_end}", f"{early_lead}second{early_end}", f"{lead}third{end}",
    ]  # fmt: skip


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gemma"}))
def test_a_system_prompt_changes_nothing_about_the_mask(family: str) -> None:
    turns = [user("q1"), assistant("one"), user("q2"), assistant("two")]
    system = {"role": "system", "content": "Be brief."}
    assert trained(family, system, *turns) == trained(family, *turns)


def test_the_same_answer_twice_and_an_answer_that_repeats_the_question() -> None:
    got = trained("llama3", user("yes"), assistant("yes"), user("yes"), assistant("yes"))
    assert got == ["yes<|eot_id|>", "yes<|eot_id|>"]


@pytest.mark.parametrize("family", ["smollm2", "qwen25", "llama3", "gemma", "phi3"])
def test_blanks_around_an_answer_do_not_move_the_end(family: str) -> None:
    (got,) = trained(family, user("q"), assistant("  spaced \n"))
    assert got.strip().startswith("spaced")
    assert got.endswith(END[family])


def test_thoughts_are_supervised_where_the_template_keeps_them() -> None:
    thought = "<think>\nlet me see\n</think>\n\nforty-two"
    got = trained("qwen3", user("q1"), assistant("forty-two"), user("q2"), assistant(thought))
    assert got == ["forty-two<|im_end|>", f"{thought}<|im_end|>"]


def test_thoughts_in_a_field_of_their_own() -> None:
    got = trained("qwen3", user("q"), assistant("forty-two", reasoning_content="let me see"))
    assert got == ["<think>\nlet me see\n</think>\n\nforty-two<|im_end|>"]


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "서울"}}}
CALLS = {
    "qwen25": '\n<tool_call>\n{"name": "weather", "arguments": {"city": "서울"}}\n</tool_call><|im_end|>',
    "llama32": '<|python_tag|>{"name": "weather", "parameters": {"city": "서울"}}<|eot_id|>',
    "mistral": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "서울"}}]</s>',
}


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("earlier", [False, True])
def test_tool_calls_are_supervised_and_tool_results_are_not(family: str, earlier: bool) -> None:
    turns = [
        user("How is the weather in Seoul?"), assistant("", tool_calls=[CALL]),
        {"role": "tool", "content": '{"degrees": 7}', "name": "weather"}, assistant("7 degrees."),
    ]  # fmt: skip
    if earlier:
        turns += [user("Thanks"), assistant("Welcome.")]
    got = trained(family, *turns, tools=TOOLS)
    assert [text.lstrip("\n") for text in got[:1]] == [CALLS[family].lstrip("\n")]
    assert got[1:] == [f"7 degrees.{END[family]}", f"Welcome.{END[family]}"][: len(got) - 1]
    assert len(got) == 2 + earlier


def test_a_tool_call_after_some_words() -> None:
    got = trained(
        "qwen25", user("q"), assistant("Let me look.", tool_calls=[CALL]), {"role": "tool", "content": "7"},
        assistant("7"), tools=TOOLS,
    )  # fmt: skip
    assert got == [f"Let me look.{CALLS['qwen25']}", "7<|im_end|>"]


def test_an_end_of_turn_is_trained_even_where_pad_equals_eos() -> None:
    made = tokenizer(
        special=("<|im_start|>", "<|im_end|>"), template=FAMILIES["smollm2"][0], pad="<|im_end|>"
    )
    assert made.pad_token_id == made.eos_token_id
    encoded = ChatTemplate(made).encode(Conversation((user("q"), assistant("a"))))
    ends = np.flatnonzero(encoded.tokens == made.eos_token_id)
    assert encoded.supervised[ends].tolist() == [False, False, True]


def test_an_end_token_that_swallows_the_line_break() -> None:
    made = tokenizer(
        template=FAMILIES["phi3"][0], special=("<|user|>", "<|assistant|>", "<|endoftext|>"),
        eos="<|endoftext|>", rstrip=("<|end|>",),
    )  # fmt: skip
    encoded = ChatTemplate(made).encode(Conversation((user("q"), assistant("a"), user("r"), assistant("b"))))
    got = [text for text, on in parts(encoded.tokens, encoded.supervised, made) if on]
    assert got == ["a<|end|>", "b<|end|>"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_nine_thousand_words(family: str) -> None:
    long = " ".join(f"word{n}" for n in range(9000))
    (got,) = trained(family, user(long), assistant(long))
    assert got == LEAD.get(family, "") + long + END[family]


def test_a_batch_is_the_same_as_one_by_one_and_keeps_bad_rows_in_place() -> None:
    template = ChatTemplate(tokenizer("gemma"))
    rows = [(f"f:{n}", Conversation((user(f"q{n}"), assistant("a" * (n + 1))))) for n in range(5)]
    rows.insert(2, ("f:bad", Conversation(({"role": "system", "content": "s"}, user("q"), assistant("a")))))
    results = template.encode_batch(rows)
    bad = results[2]
    assert isinstance(bad, BadRow)
    assert str(bad) == "f:bad: the chat template refuses it: System role not supported"
    for (_, conversation), got in zip(rows, results, strict=True):
        if not isinstance(got, BadRow):
            alone = template.encode(conversation)
            np.testing.assert_array_equal(got.tokens, alone.tokens)
            np.testing.assert_array_equal(got.supervised, alone.supervised)


def test_tokens_do_not_depend_on_the_day() -> None:
    made = tokenizer("llama32")
    text = made.decode(ChatTemplate(made).encode(Conversation((user("q"), assistant("a")))).tokens.tolist())
    assert "Today Date: 26 Jul 2024" in text
    direct = tokenizer("no-prompt")
    direct.chat_template = "{{ strftime_now('%Y-%m') }}" + direct.chat_template
    text = direct.decode(
        ChatTemplate(direct).encode(Conversation((user("q"), assistant("a")))).tokens.tolist()
    )
    assert text.startswith("2024-07<|im_start|>")


def test_a_conversation_that_the_assistant_begins() -> None:
    got = trained("smollm2", assistant("Hello!"), user("q"), assistant("a"), assistant("b"))
    assert got == ["Hello!<|im_end|>", "a<|im_end|>", "b<|im_end|>"]


def test_a_system_prompt_that_moves_to_the_last_turn_hides_no_answer() -> None:
    system = {"role": "system", "content": "Be brief."}
    got = trained("mistral", system, user("q1"), assistant("one"), user("q2"), assistant("two"), tools=TOOLS)
    assert got == ["one</s>", "two</s>"]


def test_a_question_that_is_never_answered_is_not_supervised() -> None:
    assert trained("llama3", user("q1"), assistant("one"), user("q2")) == ["one<|eot_id|>"]


@pytest.mark.parametrize("normalizer", [True, False])
@pytest.mark.parametrize(
    ("answer", "first"), [("answer", ["▁a", "n"]), ("서울", ["▁", "<0xEC>", "<0x84>", "<0x9C>", "<0xEC>"])]
)
def test_a_vocabulary_that_puts_the_space_into_the_first_token(
    normalizer: bool, answer: str, first: list[str]
) -> None:
    made = sentencepiece_like(normalizer=normalizer, template=FAMILIES["llama2"][0])
    encoded = ChatTemplate(made).encode(Conversation((user("q 서"), assistant(answer)) * 2))
    names = np.array(made.convert_ids_to_tokens(encoded.tokens.tolist()))
    edges = np.flatnonzero(np.diff(encoded.supervised.astype(int))) + 1
    starts, ends = edges[0::2], [*edges[1::2], len(names)]
    assert len(starts) == 2
    for start, end in zip(starts, ends, strict=True):
        assert names[start - 1] == "]"
        assert names[start : start + len(first)].tolist() == first
        assert names[end - 2 : end].tolist() == ["▁", "</s>"]


def spans(made: PreTrainedTokenizerFast, conversation: Conversation) -> list[str]:
    encoded = ChatTemplate(made).encode(conversation)
    return [text for text, on in parts(encoded.tokens, encoded.supervised, made) if on]


def test_a_header_that_ends_in_a_space_leaves_that_space_to_the_answer() -> None:
    made = tokenizer(
        template="{% for m in messages %}{{ m.role + ': ' + m.content + eos_token + '\n' }}{% endfor %}"
    )
    assert spans(made, Conversation((user("q"), assistant("the answer")))) == [" the answer<|im_end|>"]


def test_a_tool_call_ends_with_the_end_of_turn_that_plain_answers_have() -> None:
    made = tokenizer(
        template=FAMILIES["llama32"][0], special=FAMILIES["llama32"][1],
        bos="<|begin_of_text|>", eos="<|end_of_text|>", adds_bos=True,
    )  # fmt: skip
    turns = (user("q"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "7"}, assistant("7"))
    assert spans(made, Conversation(turns)) == [CALLS["llama32"], "7<|eot_id|>"]


def test_a_tool_call_without_an_end_does_not_borrow_that_of_the_tool() -> None:
    made = tokenizer(
        template="{% for m in messages %}{% if m.tool_calls %}"
        "{{ 'assistant\ncall ' + m.tool_calls[0].function.name }}"
        "{% else %}{{ m.role + '\n' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    )
    turns = (user("q"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "7"}, assistant("7"))
    with pytest.raises(DataError, match=r"messages\[1\]"):
        spans(made, Conversation(turns))
