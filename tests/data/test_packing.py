"""Packing makes the bins of plain best-fit decreasing, only faster."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packtrain.data.packing import one_row_a_bin, pack


def naive_rooms(lengths: list[int], capacity: int) -> list[int]:
    """What room best-fit decreasing leaves in its bins, one row at a time."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.integers(1, 60))
    return draw(st.lists(st.integers(1, capacity), max_size=120)), capacity


@settings(max_examples=300, deadline=None)
@given(cases())
def test_same_bins_as_one_row_at_a_time(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    bins = pack(np.array(lengths, dtype=np.int64), capacity)
    rows = sorted(int(row) for rows in bins for row in rows)
    assert rows == list(range(len(lengths)))
    rooms = [capacity - sum(lengths[int(row)] for row in rows) for rows in bins]
    assert all(room >= 0 for room in rooms)
    assert sorted(rooms) == naive_rooms(lengths, capacity)


def test_rows_of_a_bin_ascend_and_the_result_repeats() -> None:
    lengths = np.random.default_rng(1).integers(1, 200, 5000)
    first, second = pack(lengths, 256), pack(lengths.copy(), 256)
    assert all((np.diff(rows) > 0).all() for rows in first)
    assert [rows.tolist() for rows in first] == [rows.tolist() for rows in second]


def test_no_rows_and_full_rows() -> None:
    assert pack(np.empty(0, dtype=np.int64), 8) == []
    assert [rows.tolist() for rows in pack(np.array([8, 8]), 8)] == [[0], [1]]
    assert [rows.tolist() for rows in one_row_a_bin(3)] == [[0], [1], [2]]


@pytest.mark.parametrize("lengths", [[0, 3], [9]])
def test_lengths_that_cannot_be_are_a_bug(lengths: list[int]) -> None:
    with pytest.raises(AssertionError):
        pack(np.array(lengths), 8)


def test_a_million_and_a_half_rows_take_a_moment() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 0.9, 1_500_000).astype(np.int64), 1, 2048)
    began = time.process_time()
    bins = pack(lengths, 2048)
    # Under 0.5 s on one core of 2024; the limit only tells a slip into quadratic time.
    assert time.process_time() - began < 5
    assert len(bins) <= lengths.sum() / 2048 * 1.001 + 1
