"""Rows that an adapter is measured on are read as the run read its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer

from packtrain.config import DataConfig, ModelConfig, RunConfig
from packtrain.data.preview import parts
from packtrain.evaluate.compare import Wanted, validation_rows


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))


def texts(tmp_path: Path, row: dict[str, Any], **data: Any) -> str:
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps(row) + "\n")
    run = RunConfig(name="a", model=ModelConfig(source="x"), data=DataConfig(train="gone.jsonl", **data))
    made = tokenizer("smollm2")
    rows, what = validation_rows(run, Wanted(str(path)), made)
    assert (what, len(rows)) == (str(path), 1)
    return "".join(f"⟦{text}⟧" if on else text for text, on in parts(*rows.row(0), made))


COLUMNS = {"prompt": "question", "completion": "answer"}


@pytest.mark.parametrize("row", [{"question": "Q", "answer": "A"}, {"instruction": "Q", "response": "A"}])
def test_by_the_runs_names_where_they_have_them_and_by_their_own_else(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    text = texts(tmp_path, row, columns=COLUMNS, system="Be brief.")
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n" in text
    assert "⟦A<|im_end|>⟧" in text


def test_a_column_that_these_rows_lack_is_none_that_they_need(tmp_path: Path) -> None:
    text = texts(tmp_path, {"question": "Q", "answer": "A"}, columns=COLUMNS | {"system": "rules"})
    assert "⟦A<|im_end|>⟧" in text


def test_turns_of_other_names_and_what_is_thought(tmp_path: Path) -> None:
    columns = {"role": "who", "content": "says"}
    turns = [{"who": "human", "says": "Q"}, {"who": "gpt", "says": "A", "thinking": "hm"}]
    row = {"messages": turns}
    text = texts(tmp_path, row, columns=columns, reasoning="content")
    assert "⟦<think>\nhm\n</think>\n\nA<|im_end|>⟧" in text
    plain = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    assert "⟦A<|im_end|>⟧" in texts(tmp_path, plain, columns=columns)


def test_texts_get_no_system_prompt(tmp_path: Path) -> None:
    assert "brief" not in texts(tmp_path, {"text": "once"}, system="Be brief.")


def test_roles_alone_are_kept(tmp_path: Path) -> None:
    row = {"messages": [{"role": "guest", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    assert "⟦A<|im_end|>⟧" in texts(tmp_path, row, roles={"user": "guest"})


def test_every_row_counts_once_whatever_its_weight(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    rows = [{"question": f"Q{weight}", "answer": "A", "weight": weight} for weight in (0, 1, 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(train="gone.jsonl", columns={"prompt": "question", "completion": "answer"})
    run = RunConfig(name="a", model=ModelConfig(source="x"), data=data)
    found, _ = validation_rows(run, Wanted(str(path)), tokenizer("smollm2"))
    assert (len(found), found.weights) == (3, None)


def test_streamed_validation_rows_are_as_the_run_reads_its_own(tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text(json.dumps({"question": "Q", "answer": "A", "weight": 3}) + "\n")
    whole = {"train": str(path), "validation": str(path), "streaming": True, "columns": COLUMNS}
    sections = {"data": whole | {"system": "Be brief."}, "train": {"max_steps": 1}}
    run = RunConfig.model_validate({"name": "a", "model": {"source": "x"}} | sections)
    found, _ = validation_rows(run, Wanted(None), tokenizer("smollm2"))
    assert found.weights is None
    assert "Be brief." in tokenizer("smollm2").decode(found.row(0)[0])
