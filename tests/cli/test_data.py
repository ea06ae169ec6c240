"""``packtrain data``: what a person and a program see of the training data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    tokenizer("smollm2").save_pretrained(base)
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 400}))
    rows = [{"instruction": f"질문 {n}?", "context": "", "response": f"대답 {n}."} for n in range(20)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    file = tmp_path / "run.yaml"
    file.write_text("name: t\nmodel: {source: ./base}\ndata: {train: rows.jsonl, validation: 0.1}\n")
    return file


def test_preview_marks_what_is_supervised(cli: Callable[..., Any], run_file: Path) -> None:
    ended = cli("data", str(run_file), "--preview", "2")
    assert ended.code == 0, ended.err
    assert "rows.jsonl:1" in ended.out
    assert "<|im_start|>user\n질문 0?<|im_end|>\n<|im_start|>assistant\n⟦대답 0.<|im_end|>⟧\n" in ended.out
    assert "⟦대답 1.<|im_end|>⟧" in ended.out
    assert "대답 2." not in ended.out
    assert "\x1b" not in ended.out


def test_preview_shows_the_system_prompt_and_what_is_thought(cli: Callable[..., Any], run_file: Path) -> None:
    turns = [{"who": "guest", "says": "질문?"}, {"who": "host", "says": "대답.", "cot": "음…"}]
    (run_file.parent / "rows.jsonl").write_text(json.dumps({"talk": turns}) + "\n")
    keys = [
        "data.columns={messages: talk, role: who, content: says, reasoning_content: cot}",
        "data.roles={user: guest, assistant: host}",
        "data.system=Be brief.",
    ]
    overrides = [part for key in keys for part in ("-s", key)]
    ended = cli("data", str(run_file), "--preview", "1", *overrides)
    assert ended.code == 65
    assert "talk" not in ended.err  # the template reads no such key, which is no fault of the row's
    assert "rows.jsonl:1: messages[1].reasoning_content: the chat template renders none of" in ended.err
    assert "data.reasoning: content puts it before the answer" in ended.err
    ended = cli("data", str(run_file), "--preview", "1", *overrides, "-s", "data.reasoning=content")
    assert ended.code == 0, ended.err
    assert (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n질문?<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>\n음…\n</think>\n\n대답.<|im_end|>⟧\n"
    ) in ended.out


def test_without_a_flag_the_numbers_are_shown(cli: Callable[..., Any], run_file: Path) -> None:
    ended = cli("data", str(run_file), "-s", "data.max_length=512")
    assert ended.code == 0, ended.err
    assert "dolly, 20 rows read from 1 file" in ended.out
    assert "training     18 rows" in ended.out
    assert "validation   2 rows" in ended.out
    assert "sequences of 512 tokens" in ended.out
    assert "대답" not in ended.out


def test_json_is_the_report_and_has_a_preview_only_on_request(
    cli: Callable[..., Any], run_file: Path
) -> None:
    plain = json.loads(cli("data", str(run_file), "--json").out)
    assert plain["train"]["rows"] == 18
    assert "preview" not in plain
    shown = json.loads(cli("data", str(run_file), "--json", "--preview", "1").out)["preview"]
    assert [part["supervised"] for part in shown[0]["parts"]] == [False, True, False]
    assert shown[0]["parts"][1]["text"].endswith("<|im_end|>")


def test_bad_data_is_one_sentence_and_65(cli: Callable[..., Any], run_file: Path) -> None:
    with (run_file.parent / "rows.jsonl").open("a") as file:
        file.write('{"instruction": "q", "response": ""}\n')
    ended = cli("data", str(run_file))
    assert ended.code == 65
    assert "rows.jsonl:21: response: " in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_warnings_go_to_stderr(cli: Callable[..., Any], run_file: Path) -> None:
    rows = run_file.parent / "rows.jsonl"
    rows.write_text(rows.read_text() + rows.read_text().splitlines(keepends=True)[4])
    ended = cli("data", str(run_file), "--stats", "-s", "data.validation=0.0")
    assert ended.code == 0
    assert "warning: 1 row is in training more than once, the first: " in ended.err
    assert "rows.jsonl:21 is " in ended.err
    assert "warning" not in ended.out


def test_no_chat_template_is_78_and_a_file_gives_one(cli: Callable[..., Any], run_file: Path) -> None:
    template = run_file.parent / "base" / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    ended = cli("data", str(run_file))
    assert ended.code == 78
    assert "model.chat_template" in ended.err
    (run_file.parent / "own.jinja").write_text(text)
    assert cli("data", str(run_file), "-s", "model.chat_template=own.jinja").code == 0


def test_a_row_cannot_steer_the_terminal(cli: Callable[..., Any], run_file: Path) -> None:
    row = {"instruction": "\x1b[2Jq\r", "response": "a\x9b1m\tb 👩‍👩"}
    (run_file.parent / "rows.jsonl").write_text(json.dumps(row) + "\n")
    ended = cli("data", str(run_file), "--preview", "1")
    assert "\\x1b[2Jq\\x0d<|im_end|>" in ended.out
    assert "⟦a\\x9b1m\tb 👩‍👩<|im_end|>⟧" in ended.out
    assert not set("\x1b\x9b\r") & set(ended.out)


def test_of_a_mixture_the_first_rows_of_each_source_are_shown(
    cli: Callable[..., Any], run_file: Path
) -> None:
    more = [{"instruction": f"더 {n}?", "response": f"네 {n}.", "weight": 3} for n in range(5)]
    text = "".join(json.dumps(row) + "\n" for row in more)
    (run_file.parent / "more.jsonl").write_text(text, encoding="utf-8")
    mixture = "data.train=[{source: rows.jsonl, weight: 0.5}, {source: more.jsonl, weight: 2, limit: 4}]"
    shown = cli("data", str(run_file), "--preview", "1", "-s", mixture)
    assert shown.code == 0, shown.err
    assert "rows.jsonl:1" in shown.out and "more.jsonl:1" in shown.out
    assert "대답 1." not in shown.out and "네 1." not in shown.out
    told = cli("data", str(run_file), "-s", mixture, "-s", "data.validation=0")
    assert told.code == 0, told.err
    assert "24 rows read from 2 files" in told.out
    assert "rows.jsonl: weight 0.5, 20 rows" in told.out and "more.jsonl: weight 2, 4 rows" in told.out
    assert "weights    min 1" in told.out and "max 3 of a row" in told.out
    assert "data.weight_column" in told.err
    few = cli("data", str(run_file), "-s", mixture, "-s", "data.limit=3", "--json")
    assert [part["rows"] + part["validation_rows"] for part in json.loads(few.out)["mixture"]] == [3, 3]
