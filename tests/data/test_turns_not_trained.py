"""Assistant turns that are rendered and not learnt; preference data, which is refused."""

from __future__ import annotations

from typing import Any

import pytest
from chat_kit import FAMILIES, tokenizer

from packtrain.data.chat import ChatTemplate
from packtrain.data.formats import detect_format, to_conversation
from packtrain.data.preview import parts
from packtrain.data.rows import BadRow, Row
from packtrain.errors import DataError


def conversation(**first: Any) -> Row:
    turns = [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "first answer", **first},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "second"},
    ]
    return Row("t.jsonl:1", {"messages": turns})


def encoded(family: str, row: Row) -> tuple[list[int], list[str]]:
    """The tokens, and the supervised stretches decoded."""
    made = tokenizer(family)
    result = ChatTemplate(made).encode(to_conversation(row, "messages"))
    shown = parts(result.tokens, result.supervised, made)
    return result.tokens.tolist(), [text for text, supervised in shown if supervised]


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}, {"weight": 0.0, "train": False}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_marked_turn_is_rendered_alike_and_not_learnt(family: str, mark: dict[str, Any]) -> None:
    tokens, learnt = encoded(family, conversation())
    marked_tokens, marked_learnt = encoded(family, conversation(**mark))
    assert marked_tokens == tokens
    assert len(learnt) == 2
    assert marked_learnt == learnt[1:]


def test_train_true_and_weight_one_change_nothing() -> None:
    assert encoded("smollm2", conversation(train=True, weight=1)) == encoded("smollm2", conversation())


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ({"train": "no"}, "train: is a string, not true or false"),
        ({"weight": 0.5}, "weight: is neither 0 nor 1; a turn is trained or not"),
        ({"weight": True}, "weight: is neither 0 nor 1; a turn is trained or not"),
        ({"weight": [0]}, "weight: is neither 0 nor 1; a turn is trained or not"),
        ({"weight": 1, "train": False}, "weight: says the opposite of train"),
    ],
)
def test_what_is_neither_yes_nor_no_is_refused(mark: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRow) as caught:
        to_conversation(conversation(**mark), "messages")
    assert str(caught.value) == f"t.jsonl:1: messages[1].{problem}"


def test_only_an_assistant_turn_can_be_trained() -> None:
    row = Row(
        "t.jsonl:1",
        {
            "messages": [
                {"role": "user", "content": "q", "train": True},
                {"role": "assistant", "content": "a"},
            ]
        },
    )
    with pytest.raises(BadRow, match="only assistant turns are trained"):
        to_conversation(row, "messages")


@pytest.mark.parametrize("more", [(), ("prompt",), ("messages", "prompt")])
def test_preference_data_is_refused(more: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="preference data"):
        detect_format(dict.fromkeys(("chosen", "rejected", *more), "x"))
