"""What chat rendering refuses, and the properties that it looks up: BOS, stop tokens, control tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_kit import FAMILIES, LLAMA3_TOKENS, SMOLLM2, tokenizer

from packtrain.data.chat import ChatTemplate, template_text
from packtrain.data.formats import Conversation
from packtrain.data.rows import BadRow
from packtrain.errors import ConfigError, DataError

CHAT = Conversation(({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))


def chat(question: str, answer: str = "a", **more: Any) -> Conversation:
    return Conversation(
        ({"role": "user", "content": question}, {"role": "assistant", "content": answer, **more})
    )


@pytest.mark.parametrize("family", [name for name, made in FAMILIES.items() if made[4]])
def test_exactly_one_bos_whether_the_template_or_the_tokenizer_puts_it(family: str) -> None:
    made = tokenizer(family)
    tokens = ChatTemplate(made).encode(CHAT).tokens.tolist()
    assert tokens[0] == made.bos_token_id
    assert tokens[1] != made.bos_token_id


def test_a_bos_that_only_the_template_has_is_not_doubled() -> None:
    made = tokenizer(
        special=LLAMA3_TOKENS, template=FAMILIES["llama3"][0], bos="<|begin_of_text|>", eos="<|eot_id|>"
    )
    tokens = ChatTemplate(made).encode(CHAT).tokens.tolist()
    assert tokens.count(made.bos_token_id) == 1


@pytest.mark.parametrize("family", ["qwen25", "harmony"])
def test_a_model_without_bos_gets_none(family: str) -> None:
    made = tokenizer(family)
    text = made.decode(ChatTemplate(made).encode(CHAT).tokens.tolist())
    assert text.startswith(("<|im_start|>system", "<|start|>user"))


def test_two_bos_tokens_are_a_bad_row() -> None:
    made = tokenizer("llama3")
    template = ChatTemplate(made, "{{ bos_token }}" + FAMILIES["llama3"][0])
    with pytest.raises(BadRow, match="begins with two BOS tokens"):
        template.encode(CHAT)


def test_plain_text_is_bos_text_eos_all_supervised_but_the_bos() -> None:
    made = tokenizer("llama2")
    made.chat_template = None
    encoded = ChatTemplate(made).encode(Conversation(text="서울 and so on"))
    assert made.decode(encoded.tokens.tolist()) == "<s>서울 and so on</s>"
    assert encoded.supervised.tolist() == [False] + [True] * (len(encoded.tokens) - 1)


def test_plain_text_that_brings_its_own_bos_and_eos_gets_no_second() -> None:
    made = tokenizer("llama2")
    encoded = ChatTemplate(made).encode(Conversation(text="<s>text</s>"))
    assert made.decode(encoded.tokens.tolist()) == "<s>text</s>"
    assert not encoded.supervised[0]
    assert encoded.supervised[1:].all()


def test_plain_text_needs_an_eos() -> None:
    with pytest.raises(ConfigError, match="no EOS"):
        ChatTemplate(tokenizer(eos=None)).encode(Conversation(text="text"))


def test_no_chat_template_is_told_with_the_key_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"model\.chat_template: .* has no chat template") as caught:
        ChatTemplate(tokenizer()).encode(CHAT)
    assert "Jinja" in (caught.value.hint or "")


def test_a_given_template_takes_the_place_of_the_tokenizers() -> None:
    made = tokenizer("no-prompt")
    text = made.decode(ChatTemplate(made, SMOLLM2).encode(CHAT).tokens.tolist())
    assert "named SmolLM" in text


def test_a_syntax_error_names_the_line() -> None:
    with pytest.raises(ConfigError, match=r"model\.chat_template: line 3: "):
        ChatTemplate(tokenizer(), "{% for message in messages %}\n{{ message.content }}\n{% endfo %}")


def test_a_named_set_of_templates_uses_default_and_needs_one() -> None:
    made = tokenizer("no-prompt")
    made.chat_template = {"default": SMOLLM2, "tool_use": FAMILIES["qwen25"][0]}
    assert "SmolLM" in made.decode(ChatTemplate(made).encode(CHAT).tokens.tolist())
    tools = Conversation(CHAT.messages, [{"type": "function", "function": {"name": "f"}}])
    assert "# Tools" in made.decode(ChatTemplate(made).encode(tools).tokens.tolist())
    made.chat_template = {"rag": SMOLLM2}
    with pytest.raises(ConfigError, match="templates rag and no default"):
        ChatTemplate(made)


@pytest.mark.parametrize(
    ("family", "token"),
    [("smollm2", "<|im_end|>"), ("llama3", "<|eot_id|>"), ("llama3", "<|start_header_id|>"),
     ("gemma", "<end_of_turn>"), ("phi3", "<|user|>"),
     ("zephyr", "</s>"), ("harmony", "<|end|>"), ("mistral", "[/INST]"),
     ("mistral", "[TOOL_RESULTS]")],
)  # fmt: skip
@pytest.mark.parametrize("where", [0, 1])
def test_a_control_token_in_a_text_would_forge_a_turn(family: str, token: str, where: int) -> None:
    texts = ["what", "that"]
    texts[where] = f"before {token} after"
    with pytest.raises(BadRow) as caught:
        ChatTemplate(tokenizer(family)).encode(chat(*texts), "f.jsonl:3")
    assert caught.value.field == f"messages[{where}].content"
    assert token in caught.value.problem
    assert "before" not in str(caught.value)


def test_a_control_token_is_found_in_tool_calls_too() -> None:
    call = {"function": {"name": "f", "arguments": {"x": ["<|im_end|>"]}}}
    with pytest.raises(BadRow) as caught:
        ChatTemplate(tokenizer("qwen25")).encode(chat("q", "", tool_calls=[call]))
    assert caught.value.field == "messages[1].tool_calls[0].function.arguments.x[0]"


def test_other_special_tokens_are_left() -> None:
    made = tokenizer("smollm2")
    encoded = ChatTemplate(made).encode(chat("what is <|endoftext|>?", "it is <|endoftext|> there"))
    kept = made.decode(encoded.tokens[encoded.supervised].tolist())
    assert kept == "it is <|endoftext|> there<|im_end|>"


NO_STOP = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
TWICE = "{% for m in messages %}{{ m.content + m.content + eos_token }}{% endfor %}"
DROPPED = "{% for m in messages %}{{ m.role + eos_token }}{% endfor %}"
COUNTED = "{% for m in messages %}{{ m.content | length }}{{ m.content + eos_token }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [(NO_STOP, "no special token ends the turn"), (TWICE, "not rendered exactly once"),
     (DROPPED, "not rendered exactly once"), (COUNTED, "depends on its content")],
)  # fmt: skip
def test_a_mask_that_cannot_be_shown_to_be_right_is_an_error(template: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        ChatTemplate(tokenizer(), template).encode(chat("question", "answer"), "f.jsonl:3")
    assert str(caught.value).startswith("f.jsonl:3: ")
    assert not isinstance(caught.value, BadRow)


@pytest.mark.parametrize("family", ["llama2", "gemma"])
def test_roles_that_the_template_refuses_are_a_bad_row(family: str) -> None:
    turns = ({"role": "user", "content": "q"}, *CHAT.messages)
    with pytest.raises(BadRow, match=r"f:1: the chat template refuses it: .*must alternate"):
        ChatTemplate(tokenizer(family)).encode(Conversation(turns), "f:1")


def test_a_template_that_fails_on_a_row_does_not_show_the_row() -> None:
    template = "{% for m in messages %}{{ m.content + m.missing }}{% endfor %}"
    with pytest.raises(BadRow) as caught:
        ChatTemplate(tokenizer(), template).encode(chat("secret"))
    assert "secret" not in str(caught.value)


def test_template_text_is_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(SMOLLM2)
    assert template_text(str(file)) == SMOLLM2
    assert template_text(SMOLLM2) == SMOLLM2
    assert template_text(None) is None
    with pytest.raises(ConfigError, match=r"model\.chat_template: cannot read .*none\.jinja"):
        template_text(str(tmp_path / "none.jinja"))
