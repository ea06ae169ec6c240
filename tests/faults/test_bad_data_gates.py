"""Data that must not be trained on ends in one sentence with the place, and exit code 65."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer

from packtrain.config import DataConfig
from packtrain.data.prepare import prepare
from packtrain.errors import ConfigError, DataError

GOOD = {"instruction": "q", "context": "", "response": "a"}
SECRET = "Schatzkarte"


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def run(folder: Path, rows: list[Any], family: str = "smollm2", **data: Any) -> None:
    file = folder / "t.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare(DataConfig(train=str(file), **data), tokenizer(family), chat_template=None, seed=1)


#: what follows two good rows, and what is said after `t.jsonl:3: `
BAD: list[tuple[str, Any, str]] = [
    ("dolly", '{"instruction": "' + SECRET, "is not valid JSON"),
    ("dolly", {"instruction": SECRET}, "response: is missing"),
    ("dolly", {"instruction": SECRET, "response": ""}, "response: "),
    ("dolly", {"instruction": SECRET, "response": " \n\t"}, "response: "),
    ("dolly", {"instruction": SECRET, "response": None}, "response: "),
    ("dolly", {"instruction": SECRET, "response": 7}, "response: "),
    ("dolly", {"instruction": SECRET, "response": [SECRET]}, "response: "),
    ("dolly", {"instruction": "", "response": SECRET}, "instruction: "),
    ("dolly", {"instruction": SECRET, "response": "\ud800"}, "response: "),
    (
        "dolly",
        {"instruction": "<|im_end|>", "response": SECRET},
        "messages[0].content: holds the control token",
    ),
    (
        "dolly",
        {"instruction": SECRET, "response": "<|im_start|>"},
        "messages[1].content: holds the control token",
    ),
    ("messages", chat(("user", SECRET)), "messages: "),
    ("messages", chat(("user", SECRET), ("robot", "a")), "messages[1].role: "),
    ("messages", chat(("user", SECRET), ("assistant", "")), "messages[1]"),
    ("messages", {"messages": SECRET}, "messages: "),
    ("messages", {"messages": []}, "messages: "),
    ("messages", {"messages": [SECRET]}, "messages[0]: "),
    ("sharegpt", {"conversations": [{"from": "human", "value": SECRET}]}, "conversations: "),
    ("prompt-completion", {"prompt": SECRET, "completion": ""}, "completion: "),
    ("text", {"text": " "}, "text: "),
]
FIRST: dict[str, Any] = {
    "dolly": GOOD,
    "messages": chat(("user", "q"), ("assistant", "a")),
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "prompt-completion": {"prompt": "q", "completion": "a"},
    "text": {"text": "a"},
}


@pytest.mark.parametrize(("layout", "row", "problem"), BAD, ids=range(len(BAD)))
def test_a_bad_row_stops_with_its_place(tmp_path: Path, layout: str, row: Any, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, [FIRST[layout], FIRST[layout], row, FIRST[layout]])
    message = str(caught.value)
    assert f"t.jsonl:3: {problem}" in message
    assert "\n" not in message
    assert SECRET not in message
    assert "on_bad_row" in (caught.value.hint or "")
    assert caught.value.exit_code == 65


def test_the_first_bad_row_is_named_whichever_gate_finds_it(tmp_path: Path) -> None:
    forged, empty = GOOD | {"instruction": "<|im_end|>"}, GOOD | {"response": ""}
    with pytest.raises(DataError, match=r"t\.jsonl:2: messages\[0\]"):
        run(tmp_path, [GOOD, forged, empty, "{"])
    with pytest.raises(DataError, match=r"t\.jsonl:2: response"):
        run(tmp_path, [GOOD, empty, forged, "{"])
    with pytest.raises(DataError, match=r"t\.jsonl:2: is not valid JSON"):
        run(tmp_path, [GOOD, "{", empty, forged])


def test_too_many_bad_rows_stop_even_when_they_are_skipped(tmp_path: Path) -> None:
    empty = GOOD | {"response": ""}
    run(tmp_path, [GOOD, *[empty] * 3], on_bad_row="skip", max_bad_rows=3)
    with pytest.raises(DataError, match=r"data\.max_bad_rows 12") as caught:
        run(tmp_path, [GOOD, *[empty] * 13], on_bad_row="skip", max_bad_rows=12)
    listed = str(caught.value).splitlines()[1:]
    assert len(listed) == 10
    assert "t.jsonl:2: response" in listed[0]
    with pytest.raises(DataError, match=r"t\.jsonl:2"):
        run(tmp_path, [GOOD, empty], on_bad_row="skip", max_bad_rows=0)


def test_no_row_left_says_what_became_of_them(tmp_path: Path) -> None:
    long = GOOD | {"response": "so " * 500}
    with pytest.raises(DataError, match=r"no row is left of 2: 0 bad, 2 longer than data\.max_length 64"):
        run(tmp_path, [long, long], max_length=64, too_long="skip")
    asked = GOOD | {"instruction": "why " * 500}
    with pytest.raises(DataError, match="2 without an answer after the cut"):
        run(tmp_path, [asked, asked], max_length=64)
    with pytest.raises(DataError, match=r"no row is left of 1: 1 bad"):
        run(tmp_path, [GOOD | {"response": ""}], format="dolly", on_bad_row="skip")
    with pytest.raises(DataError, match=r"no row is left of 2: 2 bad"):
        run(tmp_path, ["{", "["], on_bad_row="skip")


def test_a_long_row_fails_where_that_is_asked(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"t\.jsonl:2: has 5\d\d tokens, more than data\.max_length 100"
    ) as caught:
        run(
            tmp_path,
            [GOOD, GOOD | {"response": "x " * 250}],
            family="llama3",
            max_length=100,
            too_long="fail",
        )
    assert "data.too_long" in (caught.value.hint or "")


def test_columns_of_no_known_format_are_listed_with_a_place(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"t\.jsonl:1: the columns found \(question, answer\) are of no known format"
    ):
        run(tmp_path, [{"question": "q", "answer": "a"}])


def test_validation_of_its_own_is_held_to_the_same(tmp_path: Path) -> None:
    bad = tmp_path / "v.jsonl"
    bad.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"response": ""}) + "\n")
    with pytest.raises(DataError, match=r"v\.jsonl:2: response"):
        run(tmp_path, [GOOD], validation=str(bad))


def test_no_template_is_a_matter_of_the_run_file(tmp_path: Path) -> None:
    bare = tokenizer("smollm2")
    bare.chat_template = None
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(ConfigError, match=r"model\.chat_template"):
        prepare(DataConfig(train=str(file)), bare, chat_template=None, seed=1)


def test_a_template_without_an_end_of_turn_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(GOOD) + "\n")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(DataError, match=r"t\.jsonl:1: .*would not learn to stop"):
        prepare(DataConfig(train=str(file)), tokenizer("smollm2"), chat_template=template, seed=1)


def test_a_text_of_one_token_has_nothing_to_be_predicted_from(tmp_path: Path) -> None:
    made = tokenizer(eos="<|im_end|>", template=None)
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"text": "<|im_end|>"}) + "\n")
    with pytest.raises(DataError, match=r"t\.jsonl:1: has no token that the model would be trained on"):
        prepare(DataConfig(train=str(file)), made, chat_template=None, seed=1)
