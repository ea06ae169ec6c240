"""Mixtures and rows' weights together with names of columns, a system prompt and reasoning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer
from reasoning_templates import thinker

from packtrain.config import DataConfig, RunConfig
from packtrain.data.prepare import PreparedData, prepare
from packtrain.errors import DataError


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def prepared(train: Any, base: Any = None, **data: Any) -> PreparedData:
    config = DataConfig.model_validate({"train": train, "validation": 0.0, "max_length": 256} | data)
    return prepare(config, base or tokenizer("smollm2"), chat_template=None, seed=1, keep=False)


def texts(found: PreparedData) -> list[str]:
    return [tokenizer("smollm2").decode(found.train.row(index)[0]) for index in range(len(found.train))]


def problem(**data: Any) -> str:
    with pytest.raises(ValueError) as raised:
        RunConfig.model_validate({"name": "a", "model": {"source": "m"}, "data": data})
    return str(raised.value)


def test_the_weight_column_has_the_files_name_beside_columns_of_other_names(tmp_path: Path) -> None:
    rows = [{"q": "one", "a": "first", "trust": 2}, {"q": "two", "a": "second", "trust": 0.5},
            {"q": "three", "a": "third", "trust": 0}]  # fmt: skip
    found = prepared(
        write(tmp_path, "a.jsonl", rows),
        columns={"prompt": "q", "completion": "a"},
        weight_column="trust",
        system="Be brief.",
    )
    assert found.train.weights is not None
    assert found.train.weights.tolist() == [2.0, 0.5]
    assert found.report.findings.weightless_rows == 1
    assert all("Be brief." in text for text in texts(found))


def test_a_row_that_is_cut_keeps_its_weight(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"q": "one", "a": "word " * 400, "weight": 3}, {"q": "two", "a": "short"}]
    found = prepared(
        write(tmp_path, "a.jsonl", rows), columns={"prompt": "q", "completion": "a"}, max_length=200
    )
    assert found.report.findings.truncated_rows == 1
    assert found.report.findings.thoughtless_turns == 0
    assert found.train.weights is not None
    assert found.train.weights.tolist() == [3.0, 1.0]


def test_names_and_a_system_prompt_hold_for_every_item_and_each_has_its_format(tmp_path: Path) -> None:
    asked, told = {"who": "user", "content": "hi"}, {"who": "assistant", "content": "hello"}
    talks: list[dict[str, Any]] = [{"conversations": [asked, told]}]
    pairs: list[dict[str, Any]] = [{"prompt": [asked], "completion": [told]}]
    found = prepared(
        [
            {"source": write(tmp_path, "t.jsonl", talks * 2), "weight": 2, "format": "sharegpt"},
            {"source": write(tmp_path, "p.jsonl", pairs * 2), "format": "prompt-completion"},
        ],
        columns={"role": "who"},
        system="Be kind.",
    )
    assert found.report.format == "sharegpt, prompt-completion"
    assert [part.epoch_rows for part in found.report.mixture] == [4, 2]
    assert all("Be kind." in text for text in texts(found))


def test_a_column_that_one_items_file_lacks_is_told_with_the_file(tmp_path: Path) -> None:
    first = write(tmp_path, "a.jsonl", [{"q": "one", "a": "first"}] * 2)
    other = write(tmp_path, "b.jsonl", [{"prompt": "one", "completion": "first"}] * 2)
    with pytest.raises(DataError, match=r"b\.jsonl"):
        prepared([{"source": first, "weight": 2}, other], columns={"prompt": "q", "completion": "a"})


def test_an_item_of_a_format_without_that_column_is_told_before_a_row_is_read() -> None:
    items = [{"source": "a", "format": "alpaca"}, {"source": "b", "format": "messages"}]
    said = problem(train=items, columns={"instruction": "q"})
    assert "the format messages has no column instruction" in said
    assert "(data.train[1])" in said
    said = problem(train=["a", {"source": "b", "format": "text"}], system="Be brief.")
    assert "data.system: rows of format text" in said
    assert "(data.train[1])" in said


def test_the_format_of_the_run_does_not_matter_where_each_item_has_its_own() -> None:
    items = [{"source": "a", "format": "alpaca"}]
    run = {"name": "a", "model": {"source": "m"}}
    data = {"train": items, "format": "messages", "columns": {"instruction": "q"}}
    RunConfig.model_validate(run | {"data": data})
    assert "the format messages has no column" in problem(**data, validation="b.jsonl")


def test_a_column_is_not_a_weight_and_something_else() -> None:
    assert "data.columns.text: weight is data.weight_column already" in problem(
        train="a.jsonl", columns={"text": "weight"}
    )
    data = {"train": "a.jsonl", "columns": {"text": "weight"}, "weight_column": None}
    RunConfig.model_validate({"name": "a", "model": {"source": "m"}, "data": data})


def test_turns_that_are_not_learnt_are_told_by_source(tmp_path: Path) -> None:
    thinking = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1", "reasoning_content": "hm"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "2", "reasoning_content": "hm"},
    ]
    plain = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}]
    first = write(tmp_path, "thinks.jsonl", [{"messages": thinking}] * 2)
    other = write(tmp_path, "plain.jsonl", [{"messages": plain}] * 2)
    found = prepared([{"source": first, "weight": 2}, other], base=thinker("qwen3"))
    assert [part.thoughtless_turns for part in found.report.mixture] == [2, 0]
    (said,) = [line for line in found.report.warnings() if "not learnt" in line]
    assert said.startswith("2 assistant turns are not learnt")
    assert said.endswith(": 2 in " + found.report.mixture[0].source)


def test_a_mixture_is_not_streamed() -> None:
    run = {"name": "a", "model": {"source": "m"}, "train": {"max_steps": 3}}
    items = [{"source": "a.jsonl", "weight": 2}, "b.jsonl"]
    with pytest.raises(
        ValueError, match=r"data\.streaming: rows that are streamed have no weights of their sources"
    ):
        RunConfig.model_validate(run | {"data": {"train": items, "streaming": True}})
    RunConfig.model_validate(run | {"data": {"train": ["a.jsonl", "b.jsonl"], "streaming": True}})
