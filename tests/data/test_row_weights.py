"""A row's weight: read from its column, refused where it is none, kept beside the tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_kit import tokenizer

from packtrain.config import DataConfig
from packtrain.data.batches import collate
from packtrain.data.prepare import PreparedData, prepare
from packtrain.errors import DataError


def rows_of(*weights: Any) -> list[dict[str, Any]]:
    """A row with each weight; without one for ``...``."""
    rows: list[dict[str, Any]] = [
        {"instruction": f"What is {n}?", "response": f"It is {n}."} for n in range(len(weights))
    ]
    for row, weight in zip(rows, weights, strict=True):
        if weight is not ...:
            row["weight"] = weight
    return rows


def write(folder: Path, rows: list[dict[str, Any]], name: str = "t.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def prepared(train: Any, *, keep: bool = False, **data: Any) -> PreparedData:
    config = DataConfig.model_validate({"train": train, "validation": 0.0, "max_length": 128} | data)
    return prepare(config, tokenizer("smollm2"), chat_template=None, seed=1, keep=keep)


def test_what_a_row_counts_follows_it_to_its_targets(tmp_path: Path) -> None:
    made = prepared(write(tmp_path, rows_of(2, ..., 0.5, None)))
    assert made.train.weights is not None
    assert made.train.weights.tolist() == [2.0, 1.0, 0.5, 1.0]
    batch = collate(made.train, [np.array([2, 0]), np.array([1])], [0, 1])
    targets = made.train.targets
    assert batch.weights is not None
    expected = [0.5] * targets[2] + [2.0] * targets[0] + [1.0] * targets[1]
    assert batch.weights.tolist() == expected
    assert len(batch.weights) == len(batch.targets)
    indices = np.array([0, 2])
    assert made.train.counting(indices) == 2 * targets[0] + 0.5 * targets[2]
    assert made.report.train.weights == {"min": 0.5, "mean": 1.125, "max": 2.0}
    assert any("min 0.5, mean 1.125, max 2" in line for line in made.report.lines())
    assert made.report.to_json()["train"]["weights"]["max"] == 2.0


def test_without_weights_nothing_is_as_it_was_not(tmp_path: Path) -> None:
    plain = prepared(write(tmp_path, rows_of(..., ...)))
    ones = prepared(write(tmp_path, rows_of(1, 1.0), "ones.jsonl"))
    for made in (plain, ones):
        assert made.train.weights is None
        assert collate(made.train, made.train_bins, [0]).weights is None
        assert isinstance(made.train.counting(np.array([0])), int)
        assert "weights" not in made.report.to_json()["train"]
        assert made.report.warnings() == []
    assert plain.train.fingerprint == ones.train.fingerprint


def test_a_row_of_weight_0_is_left_out_and_counted(tmp_path: Path) -> None:
    made = prepared(write(tmp_path, rows_of(0, 1, 0.0)))
    assert [place.rpartition(":")[2] for place in made.train.places] == ["2"]
    assert made.report.findings.weightless_rows == 2
    assert "2 rows are left out: the weight is 0" in made.report.warnings()
    with pytest.raises(DataError, match="3 with weight 0"):
        prepared(write(tmp_path, rows_of(0, 0, 0), "none.jsonl"))


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        (-1, "is negative"),
        (-1e-9, "is negative"),
        (float("nan"), "is not a number"),
        (float("inf"), "neither 0 nor between"),
        (float("-inf"), "is "),
        (10**400, "neither 0 nor between"),
        (1e-9, "neither 0 nor between"),
        (2e6, "neither 0 nor between"),
        ("heavy", "is text that is no number"),
        ("nan", "is not a number"),
        (True, "is true or false"),
        ([1], "is a list"),
        ({"value": 1}, "is an object"),
    ],
)
def test_what_is_no_weight_is_a_bad_row_with_its_place(tmp_path: Path, weight: Any, problem: str) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows_of(1, weight, 2))
    (tmp_path / "t.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"t\.jsonl:2: weight: .*{problem}"):
        prepared(str(tmp_path / "t.jsonl"))
    made = prepared(str(tmp_path / "t.jsonl"), on_bad_row="skip")
    assert made.report.findings.bad_rows == 1
    assert made.train.weights is not None
    assert made.train.weights.tolist() == [1.0, 2.0]


def test_csv_has_weights_as_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("instruction,response,weight\na,b,2.5\nc,d,\n", encoding="utf-8")
    made = prepared(str(tmp_path / "t.csv"))
    assert made.train.weights is not None
    assert made.train.weights.tolist() == [2.5, 1.0]


def test_the_column_may_have_another_name_or_be_something_else(tmp_path: Path) -> None:
    rows = [{"instruction": "How heavy?", "response": "So.", "weight": "70 kg", "score": 3}]
    path = write(tmp_path, rows)
    assert prepared(path, weight_column=None).train.weights is None
    made = prepared(path, weight_column="score")
    assert made.train.weights is not None
    assert made.train.weights.tolist() == [3.0]
    with pytest.raises(DataError, match="weight_column: null"):
        prepared(path)


def test_a_column_that_nobody_named_is_told_of(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(2, 1))
    assert any("data.weight_column" in line for line in prepared(path).report.warnings())
    assert not prepared(path, weight_column="weight").report.warnings()


def test_a_turns_own_weight_is_another_matter(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "First.", "weight": 0},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Second."},
    ]
    made = prepared(write(tmp_path, [{"messages": turns, "weight": 3}]))
    tokens, mask = made.train.row(0)
    assert tokenizer("smollm2").decode(tokens[mask].tolist()) == "Second.<|im_end|>"
    assert made.train.weights is not None
    assert made.train.weights.tolist() == [3.0]


def test_they_come_back_from_the_cache_and_make_other_data(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(2, 1, 3))
    first, again = prepared(path, keep=True), prepared(path, keep=True)
    for made in (first, again):
        assert made.train.weights is not None
        assert made.train.weights.tolist() == [2.0, 1.0, 3.0]
    plain = prepared(path, keep=True, weight_column=None)
    assert plain.train.weights is None
    assert first.train.fingerprint == again.train.fingerprint != plain.train.fingerprint
    assert (first.train.digests == plain.train.digests).all()  # alike to the model


def test_validation_counts_every_row_once(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(*[5.0] * 10))
    shared, own = prepared(path, validation=0.3), prepared(path, validation=path)
    for made in (shared, own):
        assert made.validation is not None
        assert made.validation.weights is None
        assert made.train.weights is not None
        assert made.train.weights.tolist() == [5.0] * len(made.train)


def test_a_long_row_keeps_its_weight_when_it_is_cut(tmp_path: Path) -> None:
    rows = rows_of(2.0, 4.0)
    rows[1]["response"] = "so " * 300
    made = prepared(write(tmp_path, rows))
    assert made.report.findings.truncated_rows == 1
    assert made.train.weights is not None
    assert made.train.weights.tolist() == [2.0, 4.0]


def test_in_a_mixture_sources_with_and_without_weights_stand_together(tmp_path: Path) -> None:
    weighted, plain = (
        write(tmp_path, rows_of(2, 3), "w.jsonl"),
        write(tmp_path, rows_of(..., ...), "p.jsonl"),
    )
    made = prepared([{"source": weighted, "weight": 2}, {"source": plain}])
    assert made.train.weights is not None
    assert made.train.weights.tolist() == [2.0, 3.0, 1.0, 1.0]
