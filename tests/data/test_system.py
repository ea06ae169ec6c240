"""`data.system`: before every conversation that has none, and looked up in the template first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_kit import FAMILIES, NO_PROMPT, tokenizer
from reasoning_templates import thinker
from transformers import PreTrainedTokenizerFast

from packtrain.config import DataConfig
from packtrain.data.formats import Conversation
from packtrain.data.prepare import prepare
from packtrain.data.preview import parts
from packtrain.data.report import DataReport
from packtrain.data.system import with_system
from packtrain.errors import ConfigError, DataError

Q, A = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}
SYSTEM = "Be brief.\nBe kind."


def texts(
    tmp_path: Path, made: PreTrainedTokenizerFast, *rows: dict[str, Any], **config: Any
) -> list[tuple[str, list[str]]]:
    """Each row's whole text, and its supervised stretches."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"train": str(path), "validation": 0.0, "system": SYSTEM} | config
    found = prepare(DataConfig(**settings), made, chat_template=None, seed=0, keep=False)
    shown = [parts(*found.train.row(index), made) for index in range(len(found.train))]
    return [("".join(text for text, _ in row), [text for text, on in row if on]) for row in shown]


def test_a_conversation_gets_it_and_one_with_its_own_keeps_that() -> None:
    own = Conversation(({"role": "system", "content": "Own."}, Q, A), [{"name": "f"}])
    assert with_system(own, SYSTEM) is own
    assert with_system(Conversation((Q, A), [{"name": "f"}]), SYSTEM) == Conversation(
        ({"role": "system", "content": SYSTEM}, Q, A), [{"name": "f"}]
    )
    assert with_system(Conversation((Q, A)), None) == Conversation((Q, A))
    empty = Conversation(({"role": "system", "content": ""}, Q, A))
    assert with_system(empty, SYSTEM) is empty


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [Q, A]},
        {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]},
        {"conversations": [Q, A], "system": ""},
        {"instruction": "What?", "response": "That."},
        {"instruction": "What?", "output": "That."},
        {"prompt": "What?", "completion": "That."},
    ],
)
def test_every_format_that_has_turns(tmp_path: Path, row: dict[str, Any]) -> None:
    ((whole, learnt),) = texts(tmp_path, tokenizer("smollm2"), row)
    assert whole.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWhat?")
    assert learnt == ["That.<|im_end|>"]


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gemma", "mistral"}))
def test_it_is_rendered_once_and_never_learnt(tmp_path: Path, family: str) -> None:
    turns = {
        "messages": [Q, A, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Then."}]
    }
    made = tokenizer(family)
    ((whole, learnt),) = texts(tmp_path, made, turns)
    assert whole.count(SYSTEM) == 1
    assert whole.index(SYSTEM) < whole.index("What?")
    ((_, plain),) = texts(tmp_path, made, turns, system=None)
    assert learnt == plain
    assert "brief" not in "".join(learnt)


def test_a_template_that_folds_it_into_the_question(tmp_path: Path) -> None:
    ((whole, learnt),) = texts(tmp_path, tokenizer("llama2"), {"messages": [Q, A]})
    assert whole == f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\nWhat? [/INST] That. </s>"
    assert [text.strip() for text in learnt] == ["That. </s>"]


def test_a_template_that_refuses_it_is_told_once_and_not_by_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        texts(tmp_path, tokenizer("gemma"), {"messages": [Q, A]}, on_bad_row="skip")
    assert str(caught.value) == (
        "data.system: the chat template of model.source takes no system turn: System role not supported"
    )
    assert caught.value.hint is not None
    assert "model.chat_template" in caught.value.hint


def test_a_template_that_shows_it_only_before_a_last_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leaves a system turn out"):
        texts(tmp_path, tokenizer("mistral"), {"messages": [Q, A]})


def test_a_template_that_leaves_it_out_is_refused(tmp_path: Path) -> None:
    made = tokenizer("no-prompt")
    made.chat_template = (
        "{% for message in messages if message.role != 'system' %}" + NO_PROMPT.split("%}", 1)[1]
    )
    with pytest.raises(ConfigError, match="leaves a system turn out"):
        texts(tmp_path, made, {"messages": [Q, A]})


def test_a_switch_that_the_template_takes_out_of_it_is_no_loss(tmp_path: Path) -> None:
    ((whole, learnt),) = texts(
        tmp_path, thinker("smollm3"), {"messages": [Q, A]}, system="Be brief. /no_think"
    )
    assert "Reasoning Mode: /no_think" in whole
    assert "Be brief." in whole
    assert learnt == ["That.<|im_end|>"]  # the empty thought is in the prompt of that mode


def test_a_control_token_in_it_is_the_run_files_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.system: holds the control token <\|im_end\|>"):
        texts(tmp_path, tokenizer("smollm2"), {"messages": [Q, A]}, system="a<|im_end|>b")


def test_texts_are_no_conversations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.system: rows of format text are no conversations"):
        texts(tmp_path, tokenizer("smollm2"), {"text": "once"})


def test_turns_are_counted_without_a_system_column_too(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Q"},
        {"from": "gpt", "value": "A", "tool_calls": None, "thinking": "t"},
    ]
    for system in ("", "Own."):
        with pytest.raises(DataError, match=r"rows\.jsonl:1: messages\[1\]\.reasoning_content: the chat"):
            texts(tmp_path, tokenizer("smollm2"), {"conversations": turns, "system": system})


@pytest.mark.parametrize("own", [True, False])
def test_a_bad_turn_is_counted_as_the_row_has_it(tmp_path: Path, own: bool) -> None:
    turns = [*([{"role": "system", "content": "Own."}] if own else []), Q, {**A, "content": "a<|im_end|>b"}]
    with pytest.raises(
        DataError, match=rf"rows\.jsonl:1: messages\[{1 + own}\]\.content: holds the control token"
    ):
        texts(tmp_path, tokenizer("smollm2"), {"messages": turns})


def test_a_row_whose_own_system_turn_is_left_out_is_told(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": SYSTEM}, Q, A]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (own, {"messages": [Q, A]}, own)))
    config = DataConfig(train=str(path), validation=0.0)

    def found(family: str) -> DataReport:
        return prepare(config, tokenizer(family), chat_template=None, seed=0, keep=False).report

    report = found("mistral")
    assert (report.findings.unheard_turns, report.findings.bad_rows) == (2, 0)
    assert (
        "2 system turns never seen: the chat template leaves system turns out "
        "(another one can be named with model.chat_template)"
    ) in report.warnings()
    report = found("llama2")
    assert report.findings.unheard_turns == 0
    assert not any("system turn" in line for line in report.warnings())


def test_where_it_is_refused_each_row_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = ({"messages": [{"role": "system", "content": SYSTEM}, Q, A]}, {"messages": [Q, A]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(train=str(path), validation=0.0, on_bad_row="skip")
    report = prepare(config, tokenizer("gemma"), chat_template=None, seed=0, keep=False).report
    assert (report.findings.unheard_turns, report.findings.bad_rows) == (0, 1)
