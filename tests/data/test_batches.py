"""Batches are a function of (seed, step); a micro-batch holds every token and target once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packtrain.data import batches
from packtrain.data.batches import BatchPlan, collate, micro_batches
from packtrain.data.tokenized import TokenizedRows


def plan(
    bins: int = 100, batch_tokens: int = 1000, epochs: float = 1.0, seed: int = 7, **more: Any
) -> BatchPlan:
    tokens = np.random.default_rng(0).integers(50, 129, bins)
    return BatchPlan(tokens, batch_tokens, epochs, seed, **more)


@settings(max_examples=200, deadline=None)
@given(
    tokens=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    batch_tokens=st.integers(16, 2000),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_epoch_has_every_bin_once_and_no_empty_batch(
    tokens: list[int], batch_tokens: int, seed: int
) -> None:
    made = BatchPlan(np.array(tokens), batch_tokens, 2.0, seed)
    for epoch in range(2):
        first = 1 + epoch * made.steps_per_epoch
        batches = [made.batch(step) for step in range(first, first + made.steps_per_epoch)]
        assert all(len(batch) for batch in batches)
        assert sorted(itertools.chain.from_iterable(batch.tolist() for batch in batches)) == list(
            range(len(tokens))
        )
    assert made.steps == 2 * made.steps_per_epoch


def test_batches_are_nearly_equal_and_about_as_large_as_asked() -> None:
    made = plan(bins=1000, batch_tokens=2000)
    sizes = [int(made.bin_tokens[made.batch(step)].sum()) for step in range(1, made.steps + 1)]
    assert made.steps == -(-int(made.bin_tokens.sum()) // 2000)
    mean = sum(sizes) / len(sizes)
    assert all(abs(size - mean) <= 128 for size in sizes)


def test_any_step_can_be_asked_for_first() -> None:
    in_order = [plan(epochs=3).batch(step).tolist() for step in range(1, plan(epochs=3).steps + 1)]
    fresh = plan(epochs=3)
    for step in reversed(range(1, fresh.steps + 1)):
        assert fresh.batch(step).tolist() == in_order[step - 1]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(made: BatchPlan, epoch: int) -> list[int]:
        first = 1 + epoch * made.steps_per_epoch
        batches = [made.batch(step).tolist() for step in range(first, first + made.steps_per_epoch)]
        return list(itertools.chain.from_iterable(batches))

    orders = [order(plan(epochs=2, seed=seed), epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_the_order_stays_the_same_between_versions() -> None:
    made = BatchPlan(np.full(8, 10), 20, 1.0, 42)
    assert [made.batch(step).tolist() for step in range(1, 5)] == GOLDEN


GOLDEN = [[7, 0], [4, 2], [1, 3], [5, 6]]


@pytest.mark.parametrize("more", [{}, {"epochs": 0.3}, {"epochs": 2.4}, {"epochs": 3.0, "max_steps": 7}])
def test_the_largest_batch_is_found_without_making_them_all(more: dict[str, float]) -> None:
    made = plan(bins=61, batch_tokens=700, **more)  # type: ignore[arg-type]
    assert made.most_bins == max(len(made.batch(step)) for step in range(1, made.steps + 1))


def test_a_step_does_not_go_through_all_bins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[int] = []
    real = batches.near_equal_cuts

    def counted(tokens: batches.Indices, parts: int) -> batches.Indices:
        cut.append(parts)
        return real(tokens, parts)

    monkeypatch.setattr(batches, "near_equal_cuts", counted)
    made = plan(epochs=3)
    for step in range(1, made.steps + 1):
        made.batch(step)
    assert len(cut) == 3  # one an epoch


def test_a_fraction_of_an_epoch_and_a_limit_end_in_the_middle() -> None:
    whole = plan().steps_per_epoch
    half = plan(epochs=0.5)
    assert half.steps == -(-whole // 2)
    assert half.epoch_at(half.steps) == pytest.approx(0.5, abs=1 / whole)
    assert half.batch(1).tolist() == plan().batch(1).tolist()
    assert plan(epochs=3, max_steps=4).steps == 4
    assert plan(epochs=1e-9).steps == 1
    tenths = BatchPlan(np.full(10, 20), 20, 0.1 + 0.2, 1)
    assert tenths.steps == 3
    with pytest.raises(IndexError):
        half.batch(half.steps + 1)
    with pytest.raises(IndexError):
        half.batch(0)


def rows() -> tuple[TokenizedRows, list[np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    generator = np.random.default_rng(3)
    lengths = [5, 3, 1, 8, 2]
    tokens = [generator.integers(0, 1000, length).astype(np.int32) for length in lengths]
    masks = [generator.random(length) < 0.6 for length in lengths]
    masks[0][0] = True  # the first token of a document cannot be predicted
    made = TokenizedRows.of(tokens, masks, [f"r:{n}" for n in range(5)])
    return made, [np.array([0, 2]), np.array([1, 4]), np.array([3])]


def test_a_micro_batch_lays_documents_flat_and_targets_stay_inside_them() -> None:
    made, bins = rows()
    batch = collate(made, bins, [2, 0])
    documents = [3, 0, 2]
    assert batch.rows.tolist() == documents
    lengths = [int(made.lengths[row]) for row in documents]
    assert batch.cu_seqlens.tolist() == [0, *itertools.accumulate(lengths)]
    assert batch.bins == ((2, 0, 8), (0, 8, 14))
    tokens: list[int] = []
    positions: list[int] = []
    targets: list[tuple[int, int]] = []
    start = 0
    for row in documents:
        row_tokens, mask = made.row(row)
        tokens += row_tokens.tolist()
        positions += range(len(row_tokens))
        targets += [(start + t - 1, int(row_tokens[t])) for t in range(1, len(mask)) if mask[t]]
        start += len(row_tokens)
    assert batch.input_ids.tolist() == tokens
    assert batch.position_ids.tolist() == positions
    assert list(zip(batch.target_positions.tolist(), batch.targets.tolist(), strict=True)) == targets
    assert len(targets) == sum(int(made.targets[row]) for row in documents)


def test_the_tensors_have_the_types_that_attention_and_loss_want() -> None:
    import torch

    made, bins = rows()
    batch = collate(made, bins, np.array([1]))
    assert batch.cu_seqlens.dtype == torch.int32
    for tensor in (batch.input_ids, batch.position_ids, batch.target_positions, batch.targets):
        assert tensor.dtype == torch.int64


def test_micro_batches_split_a_step_without_loss() -> None:
    ids = np.arange(7)
    assert [part.tolist() for part in micro_batches(ids, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_targets_and_fingerprint_follow_the_arrays() -> None:
    made, _ = rows()
    masks = [made.row(index)[1] for index in range(5)]
    assert made.targets.tolist() == [int(mask[1:].sum()) for mask in masks]
    assert made.fingerprint == rows()[0].fingerprint
    tokens = [made.row(index)[0] for index in range(5)]
    flipped = [*masks[:-1], ~masks[-1]]
    assert TokenizedRows.of(tokens, masks, list(made.places)).fingerprint == made.fingerprint
    assert TokenizedRows.of(tokens, flipped, list(made.places)).fingerprint != made.fingerprint
    flat, mask, cuts = np.concatenate(tokens), np.concatenate(masks), [4, 8, 9, 17]
    moved = TokenizedRows.of(np.split(flat, cuts), np.split(mask, cuts), list(made.places))
    assert moved.fingerprint != made.fingerprint
