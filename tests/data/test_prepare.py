"""From a data section to arrays: policies, the split, the report; and that it repeats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_kit import tokenizer

from packtrain.config import DataConfig, DataSource
from packtrain.data import reading as module
from packtrain.data.prepare import PreparedData, prepare, validation_choice
from packtrain.data.preview import marked, parts

DOLLY = Path(__file__).resolve().parents[3] / "shared" / "data" / "dolly-14k.jsonl.gz"


def dolly(count: int, words: int = 3, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"instruction": f"What is {n}?", "context": "", "response": f"It is {n}, " + "so " * words + "there."}
        for n in range(start, start + count)
    ]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(
    train: str | list[str | DataSource], family: str = "smollm2", seed: int = 1, **data: Any
) -> PreparedData:
    config = DataConfig(train=train, **({"validation": 0.0} | data))
    return prepare(config, tokenizer(family), chat_template=None, seed=seed)


def test_rows_arrive_in_order_with_their_places(tmp_path: Path) -> None:
    made = run(write(tmp_path / "t.jsonl", dolly(5)))
    assert [place.rpartition("/")[2] for place in made.train.places] == [f"t.jsonl:{n}" for n in range(1, 6)]
    text = marked(parts(*made.train.row(3), tokenizer("smollm2")))
    assert text.endswith(
        "<|im_start|>user\nWhat is 3?<|im_end|>\n"
        "<|im_start|>assistant\n⟦It is 3, so so so there.<|im_end|>⟧\n"
    )
    assert made.report.format == "dolly"
    assert made.report.findings.rows_read == 5
    assert made.validation is None
    assert made.validation_bins == []
    assert made.report.warnings() == []


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ("dolly", {"instruction": "q", "context": "c", "response": "answer"}),
        ("alpaca", {"instruction": "q", "input": "c", "output": "answer"}),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "answer"}]},
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "answer"}]},
        ),
        ("prompt-completion", {"prompt": "q", "completion": "answer"}),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_every_format_trains_the_answer(
    tmp_path: Path, layout: str, row: dict[str, Any], named: bool
) -> None:
    made = run(write(tmp_path / "t.jsonl", [row]), format=layout if named else "auto")
    assert made.report.format == layout
    tokens, mask = made.train.row(0)
    assert tokenizer("smollm2").decode(tokens[mask].tolist()) == "answer<|im_end|>"


def test_plain_text_needs_no_template(tmp_path: Path) -> None:
    made_tokenizer = tokenizer("llama2")
    made_tokenizer.chat_template = None
    config = DataConfig(train=write(tmp_path / "t.jsonl", [{"text": "한국어 text"}]), validation=0.0)
    made = prepare(config, made_tokenizer, chat_template=None, seed=1)
    assert marked(parts(*made.train.row(0), made_tokenizer)) == "<s>⟦한국어 text</s>⟧"


def test_the_same_input_gives_the_same_arrays_and_another_seed_another_split(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", dolly(200))
    first, second, other = (run(file, seed=seed, validation=0.1) for seed in (1, 1, 2))
    assert first.validation is not None
    assert second.validation is not None
    assert other.validation is not None
    assert first.train.fingerprint == second.train.fingerprint
    assert list(first.validation.places) == list(second.validation.places)
    assert list(first.validation.places) != list(other.validation.places)
    assert len(first.validation) == 20
    assert sorted([*first.train.places, *first.validation.places]) == sorted(run(file).train.places)
    assert first.report.train.fingerprint == first.train.fingerprint


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "t.jsonl", dolly(25))
    whole = run(file)
    done: list[int] = []
    monkeypatch.setattr(module, "CHUNK", 10)
    config = DataConfig(train=file, validation=0.0)
    chunked = prepare(
        config, tokenizer("smollm2"), chat_template=None, seed=1, on_progress=done.append, keep=False
    )
    assert chunked.train.fingerprint == whole.train.fingerprint
    assert list(chunked.train.places) == list(whole.train.places)
    assert done == [10, 20, 25]


@pytest.mark.parametrize(
    ("rows", "share", "expected"),
    [(0, 0.5, 0), (1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (100, 0.02, 2), (100, 0.0, 0), (3, 0.999, 2)],
)
def test_a_share_is_at_least_one_row_and_never_all(rows: int, share: float, expected: int) -> None:
    chosen = validation_choice(rows, share, 42)
    assert len(chosen) == expected
    assert len(np.unique(chosen)) == expected
    assert (chosen < rows).all()


def test_one_row_has_no_validation_and_that_is_said(tmp_path: Path) -> None:
    made = run(write(tmp_path / "t.jsonl", dolly(1)), validation=0.1)
    assert made.validation is None
    assert "there is no validation" in made.report.warnings()[0]


def test_validation_of_its_own_and_rows_in_both_are_named(tmp_path: Path) -> None:
    rows = dolly(6)
    train = write(tmp_path / "t.jsonl", [*rows, rows[1]])
    validation = write(tmp_path / "v.jsonl", [*dolly(2, start=50), rows[4]])
    made = run(train, validation=validation)
    assert made.validation is not None
    assert len(made.validation) == 3
    assert made.report.duplicates.rows == 1
    assert made.report.duplicates.places[0].replace(str(tmp_path) + "/", "") == "t.jsonl:7 is t.jsonl:2"
    assert made.report.overlap.rows == 1
    assert made.report.overlap.places[0].replace(str(tmp_path) + "/", "") == "v.jsonl:3 is t.jsonl:5"
    assert len(made.report.warnings()) == 2
    assert set(made.report.sources) == {"train", "validation"}


def test_the_first_ten_duplicates_are_listed_and_all_counted(tmp_path: Path) -> None:
    made = run(write(tmp_path / "t.jsonl", dolly(1) * 30))
    assert made.report.duplicates.rows == 29
    assert len(made.report.duplicates.places) == 10


def test_a_cut_answer_trains_no_end(tmp_path: Path) -> None:
    rows = [*dolly(3), *dolly(1, words=500, start=9)]
    made = run(write(tmp_path / "t.jsonl", rows), family="llama3", max_length=100)
    found = made.report.findings
    whole = run(write(tmp_path / "w.jsonl", rows), family="llama3")
    assert made.train.lengths.tolist() == [*whole.train.lengths[:3], 100]
    assert found.truncated_rows == 1
    assert found.truncated_tokens == whole.train.lengths[3] - 100
    tokens, mask = made.train.row(3)
    eos = tokenizer("llama3").eos_token_id
    assert eos not in tokens[mask]
    assert mask[-1]
    (warning,) = made.report.warnings()
    assert warning.startswith("1 row is longer than data.max_length 100 and cut: ")


def test_a_row_whose_answer_was_cut_away_is_left_out(tmp_path: Path) -> None:
    long = {"instruction": "why? " * 200, "response": "so"}
    made = run(write(tmp_path / "t.jsonl", [*dolly(3), long]), family="llama3", max_length=100)
    assert len(made.train) == 3
    assert made.report.findings.unsupervised_rows == 1
    assert made.report.findings.truncated_rows == 0
    assert "the cut took all of the answer" in made.report.warnings()[0]


def test_skip_leaves_long_rows_out(tmp_path: Path) -> None:
    rows = [*dolly(1, words=500), *dolly(3)]
    made = run(write(tmp_path / "t.jsonl", rows), family="llama3", max_length=100, too_long="skip")
    assert len(made.train) == 3
    assert made.report.findings.too_long_rows == 1


def test_skipped_bad_rows_are_counted_and_the_first_ten_listed(tmp_path: Path) -> None:
    rows: list[Any] = dolly(20)
    for index in range(0, 20, 2):
        rows[index] = (
            {"instruction": "q", "response": " "}
            if index % 4
            else {"instruction": "<|im_end|>", "response": "a"}
        )
    rows += [{"instruction": "q"}, [1]]
    made = run(write(tmp_path / "t.jsonl", rows), on_bad_row="skip")
    assert len(made.train) == 10
    assert made.report.findings.bad_rows == 12
    listed = made.report.findings.bad_row_list
    assert [line.rpartition("/")[2].split(":")[1] for line in listed] == [str(n) for n in range(1, 20, 2)]
    assert "control token <|im_end|>" in listed[0]
    assert "12 rows are bad and left out" in made.report.warnings()[0]


def test_bins_hold_every_row_and_the_report_tells_how_full_they_are(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", dolly(50))
    packed, loose = run(file, max_length=256), run(file, max_length=256, packing=False)
    assert sorted(np.concatenate(packed.train_bins).tolist()) == list(range(50))
    assert max(int(packed.train.lengths[rows].sum()) for rows in packed.train_bins) <= 256
    assert len(loose.train_bins) == 50
    tokens = int(packed.train.lengths.sum())
    assert packed.report.train.bins == len(packed.train_bins)
    assert packed.report.train.packing_efficiency == pytest.approx(
        tokens / len(packed.train_bins) / 256, abs=1e-4
    )
    assert loose.report.train.packing_efficiency < packed.report.train.packing_efficiency


def test_the_report_is_plain_json_without_contents(tmp_path: Path) -> None:
    rows: list[Any] = [*dolly(30), {"instruction": "Schatzkarte", "response": None}]
    made = run(write(tmp_path / "t.jsonl", rows), on_bad_row="skip", validation=0.1)
    text = json.dumps(made.report.to_json())
    assert "Schatzkarte" not in text
    assert "What is" not in text
    plain = json.loads(text)
    assert plain["train"]["rows"] + plain["validation"]["rows"] == 30
    assert plain["findings"]["bad_rows"] == 1
    assert plain["sources"]["train"]["files"][0]["sha256"]
    assert plain["warnings"] == made.report.warnings()
    lines = made.report.lines()
    assert any(line.startswith("training     27 rows, ") for line in lines)


def test_limit_is_for_a_trial(tmp_path: Path) -> None:
    made = run(write(tmp_path / "t.jsonl", dolly(50)), limit=7)
    assert len(made.train) == 7


@pytest.mark.slow
@pytest.mark.skipif(not DOLLY.exists(), reason=f"the real dolly rows are not there: {DOLLY}")
def test_real_dolly_answers_come_back_whole(tmp_path: Path) -> None:
    family = tokenizer("llama3")
    config = DataConfig(
        train=str(DOLLY), validation=0.0, max_length=100_000, limit=2000, on_bad_row="skip", max_bad_rows=100
    )
    made = prepare(config, family, chat_template=None, seed=1)
    with gzip.open(DOLLY, "rt", encoding="utf-8") as file:
        answers = {n: json.loads(line)["response"] for n, line in enumerate(file, 1)}
    assert len(made.train) > 1900
    for index, place in enumerate(made.train.places):
        tokens, mask = made.train.row(index)
        got = family.decode(tokens[mask].tolist(), clean_up_tokenization_spaces=False)
        assert got == answers[int(place.rpartition(":")[2])].strip() + "<|eot_id|>"
