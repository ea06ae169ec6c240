"""Several sources with weights: which rows an epoch has, that it repeats, and what is said of it."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_kit import tokenizer

from packtrain.config import DataConfig
from packtrain.data.batches import BatchPlan, collate
from packtrain.data.mixture import EpochBins, Mixture
from packtrain.data.packing import pack
from packtrain.data.prepare import PreparedData, prepare
from packtrain.errors import DataError

ALPACA = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n}, I say."} for n in range(20)]
MESSAGES = [
    {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} " * 9}]}
    for n in range(10)
]


def mixture(*sources: tuple[int, float], seed: int = 7) -> Mixture:
    """Of so many rows each, with a weight."""
    ends = np.cumsum([0, *(rows for rows, _ in sources)])
    rows = tuple(np.arange(start, end) for start, end in pairwise(ends.tolist()))
    return Mixture(rows, tuple(weight for _, weight in sources), seed)


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def prepared(train: list[Any], seed: int = 1, keep: bool = True, **data: Any) -> PreparedData:
    config = DataConfig.model_validate({"train": train, "validation": 0.0, "max_length": 128} | data)
    return prepare(config, tokenizer("smollm2"), chat_template=None, seed=seed, keep=keep)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str]:
    return write(tmp_path, "a.jsonl", ALPACA), write(tmp_path, "m.jsonl", MESSAGES)


def test_a_whole_weight_is_a_number_of_copies_in_every_epoch() -> None:
    mixed = mixture((3, 2.0), (2, 1.0))
    assert mixed.alike
    assert mixed.counts() == [6, 2]
    for epoch in (0, 1, 9):
        assert sorted(mixed.epoch(epoch).tolist()) == [0, 0, 1, 1, 2, 2, 3, 4]


@pytest.mark.parametrize(("rows", "weight"), [(10, 0.5), (9, 0.4), (7, 2.5), (100, 0.03), (3, 0.999)])
def test_what_a_fraction_leaves_out_comes_next(rows: int, weight: float) -> None:
    mixed = mixture((rows, weight), (5, 1.0))
    count = mixed.counts()[0]
    assert count == pytest.approx(rows * weight, abs=0.5)
    seen: Counter[int] = Counter(range(rows))
    for epoch in range(60):
        chosen = mixed.epoch(epoch)
        own = chosen[chosen < rows]
        assert len(own) == count
        assert set(chosen.tolist()) >= set(range(rows, rows + 5))
        seen.update(own.tolist())
        assert max(seen.values()) - min(seen.values()) <= 1  # none comes again before all have come


def test_a_source_is_never_left_out_altogether() -> None:
    assert mixture((20, 0.001), (10, 1.0)).counts() == [1, 10]
    assert mixture((0, 2.5), (10, 1.0)).counts() == [0, 10]


def test_an_epoch_follows_from_the_seed_alone() -> None:
    again = mixture((40, 0.5), (40, 0.5))
    assert mixture((40, 0.5), (40, 0.5)).epoch(3).tolist() == again.epoch(3).tolist()
    assert mixture((40, 0.5), (40, 0.5), seed=8).epoch(3).tolist() != again.epoch(3).tolist()
    first, second = again.epoch(0)[:20], again.epoch(0)[20:] - 40
    assert first.tolist() != second.tolist()  # sources of one size have each an order of its own


def plan_of(bins: EpochBins, epochs: float, batch_tokens: int = 64) -> BatchPlan:
    return BatchPlan(bins.tokens(0), batch_tokens, epochs, seed=3, own=bins)


def epoch_bins() -> tuple[EpochBins, Mixture]:
    mixed = mixture((30, 0.4), (11, 1.5))
    lengths = np.random.default_rng(0).integers(3, 30, 41)
    return EpochBins(mixed, lengths, lambda each: pack(each, 32)), mixed


def test_the_steps_of_an_epoch_train_on_its_rows() -> None:
    bins, mixed = epoch_bins()
    plan = plan_of(bins, 8.0)
    for epoch in range(8):
        steps = range(epoch * plan.steps_per_epoch + 1, (epoch + 1) * plan.steps_per_epoch + 1)
        ids = np.concatenate([plan.batch(step) for step in steps])
        assert len(set(ids.tolist())) == len(ids)
        rows = np.concatenate([bins[int(each)] for each in ids])
        assert sorted(rows.tolist()) == sorted(mixed.epoch(epoch).tolist())
    assert plan.most_bins >= len(bins.of(0)) // plan.steps_per_epoch


def test_a_step_is_the_same_without_those_before_it() -> None:
    bins, _ = epoch_bins()
    plan = plan_of(bins, 8.0)
    walked = {step: [bins[int(each)].tolist() for each in plan.batch(step)] for step in range(1, plan.steps)}
    for step in (plan.steps - 1, 5, plan.steps // 2):
        afresh, _ = epoch_bins()
        found = [afresh[int(each)].tolist() for each in plan_of(afresh, 8.0).batch(step)]
        assert found == walked[step]


def test_every_epoch_has_a_sequence_for_each_step() -> None:
    # Epochs of a long row, or of short ones that share a sequence.
    mixed = mixture((8, 0.5))
    lengths = np.array([32, 32, 32, 32, 2, 2, 2, 2])
    bins = EpochBins(mixed, lengths, lambda each: pack(each, 32))
    plan = BatchPlan(bins.tokens(0), 2, 40.0, seed=3, own=bins)
    assert len({len(bins.of(epoch)) for epoch in range(40)}) <= 2
    for step in range(1, plan.steps + 1):
        assert len(plan.batch(step))


def test_sources_have_each_their_format_weight_and_limit(sources: tuple[str, str]) -> None:
    first, second = sources
    made = prepared(
        [{"source": first, "weight": 2, "format": "alpaca", "limit": 12}, {"source": second, "weight": 0.5}],
        keep=False,
    )
    assert made.report.format == "alpaca, messages"
    assert len(made.train) == 22
    one, other = made.report.mixture
    assert (one.rows, one.epoch_rows, one.weight) == (12, 24, 2.0)
    assert (other.rows, other.epoch_rows, other.weight) == (10, 5, 0.5)
    assert made.report.train.rows == 29
    assert (made.report.train.tokens, len(made.train_bins)) == (
        sum(int(made.train.lengths[rows].sum()) for rows in made.train_bins),
        made.report.train.bins,
    )
    shares = made.report.to_json()["mixture"]
    assert sum(part["share"] for part in shares) == pytest.approx(1.0, abs=1e-3)
    assert shares[0]["epoch_tokens"] == 2 * one.tokens
    assert any("weight 0.5, 10 rows" in line for line in made.report.lines())
    assert [source["weight"] for source in made.report.sources.values()] == [2.0, 0.5]
    assert list(made.report.sources) == ["train[0]", "train[1]"]


def test_joined_sources_collate_as_each_alone(sources: tuple[str, str]) -> None:
    first, second = sources
    made = prepared([{"source": first, "weight": 1.0}, second])
    alone = [prepared([{"source": each}]).train for each in sources]
    rows = [(0, 3), (1, 4), (0, 19), (1, 0)]
    ours = collate(made.train, [np.array([at + 20 * which for which, at in rows])], [0])
    for place, (which, at) in enumerate(rows):
        tokens, mask = alone[which].row(at)
        start, end = ours.cu_seqlens[place : place + 2].tolist()
        assert ours.input_ids[start:end].tolist() == tokens.tolist()
        mine = made.train.row(at + 20 * which)
        assert (mine[0].tolist(), mine[1].tolist()) == (tokens.tolist(), mask.tolist())
    assert made.epochs is None  # whole weights: every epoch is alike


def test_no_copy_of_a_row_that_is_held_out_is_trained_on(sources: tuple[str, str]) -> None:
    first, second = sources
    made = prepared([{"source": first, "weight": 3.5}, {"source": second, "weight": 0.3}], validation=0.3)
    assert made.validation is not None
    assert made.epochs is not None
    held = {row.tobytes() for row in made.validation.digests}
    for epoch in range(7):
        trained = np.concatenate(made.epochs.of(epoch))
        assert not held & {row.tobytes() for row in made.train.digests[trained]}
    assert sum(part.validation_rows for part in made.report.mixture) == len(made.validation) == 9
    assert sum(part.rows for part in made.report.mixture) == 21


def test_the_weights_change_neither_the_split_nor_the_tokens(sources: tuple[str, str]) -> None:
    plain = prepared(list(sources), format="auto", validation=0.2, keep=False, on_bad_row="skip")
    first, second = sources
    one = prepared([{"source": first}, second], validation=0.2)
    other = prepared([{"source": first, "weight": 3}, second], validation=0.2)
    assert one.train.fingerprint == other.train.fingerprint == other.report.train.fingerprint
    assert one.validation is not None
    assert other.validation is not None
    assert one.validation.fingerprint == other.validation.fingerprint
    assert one.report.mixture
    assert not plain.report.mixture
    assert "mixture" not in plain.report.to_json()


def test_a_source_that_all_goes_to_validation_is_named(tmp_path: Path, sources: tuple[str, str]) -> None:
    alone = write(tmp_path, "one.jsonl", ALPACA[:1])
    found = [
        prepared([{"source": alone, "weight": 2}, sources[1]], seed=seed, validation=0.5).report
        for seed in range(8)
    ]
    lost = [report for report in found if not report.mixture[0].rows]
    assert lost  # by one seed or another
    assert all(any("no row of" in line for line in report.warnings()) for report in lost)


def test_bad_rows_are_counted_over_all_sources(tmp_path: Path, sources: tuple[str, str]) -> None:
    bad = [{"instruction": "q", "output": ""}] * 2
    paths = [write(tmp_path, f"bad{n}.jsonl", [*bad, ALPACA[n]]) for n in range(2)]
    train = [{"source": each, "format": "alpaca"} for each in paths]
    made = prepared(train, on_bad_row="skip", max_bad_rows=4)
    assert made.report.findings.bad_rows == 4
    with pytest.raises(DataError, match=r"more bad rows than data\.max_bad_rows 3"):
        prepared(train, on_bad_row="skip", max_bad_rows=3)
    with pytest.raises(DataError, match=r"bad0\.jsonl:1: output: is empty"):
        prepared(train)


def test_a_format_that_does_not_fit_names_the_row(sources: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"m\.jsonl:1: instruction: is missing"):
        prepared([sources[0], {"source": sources[1], "format": "alpaca"}])


def test_the_second_start_takes_each_source_from_the_cache(
    sources: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from packtrain.data.reading import Reader

    first, second = sources
    before = prepared([{"source": first, "weight": 2}, {"source": second, "weight": 0.5}])
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("rows are read again"))
    again = prepared([{"source": first, "weight": 0.5}, {"source": second, "weight": 4}])  # other weights
    assert again.train.fingerprint == before.train.fingerprint
    assert again.report.train.rows == 10 + 40
