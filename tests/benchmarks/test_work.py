"""The work of a step, counted by hand for a small Llama."""

from __future__ import annotations

import dataclasses

import pytest
from work import Shape, step_work

SMALL = Shape(
    hidden=8, intermediate=16, layers=1, heads=2, key_value_heads=1, head_size=4, vocabulary=10
)  # q 8→8, k and v 8→4, o 8→8, gate and up 8→16, down 16→8
SMOLLM2 = Shape(576, 1536, 30, 9, 3, 64, 49152)


def test_a_middle_layer_is_forward_and_the_gradient_of_its_input() -> None:
    three = step_work(dataclasses.replace(SMALL, layers=3), 2, [5, 3], 4)
    two = step_work(dataclasses.replace(SMALL, layers=2), 2, [5, 3], 4)
    weights = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 2 * 8 * 16 + 16 * 8
    assert three.base - two.base == 4 * 8 * weights
    # Of A: forward, its gradient, its input's; of B: forward, its gradient, its input's.
    low_rank = 2 * (6 * 8 + 16) + 2 * (8 + 4 + 4 + 8 + 16 + 16 + 8)
    assert three.adapter - two.adapter == 6 * 8 * low_rank
    assert three.attention - two.attention == 6 * (25 + 9) * 8
    assert three.head == two.head == 4 * 4 * 8 * 10


def test_what_nobody_needs_is_left_out() -> None:
    whole = step_work(SMALL, 2, [8], 8)
    # One layer is lowest and highest: no gradient into q, k, v; all else at supervised positions alone.
    assert whole.base == 2 * 8 * (64 + 2 * 32) + 4 * 8 * (64 + 2 * 128 + 128)
    half = step_work(SMALL, 2, [8], 4)
    assert half.base == 2 * 8 * 2 * 32 + 2 * 4 * 64 + 4 * 4 * (64 + 2 * 128 + 128)
    assert half.attention * 2 == whole.attention


def test_shorter_documents_have_less_attention_and_the_same_rest() -> None:
    one, four = step_work(SMALL, 2, [8], 8), step_work(SMALL, 2, [2] * 4, 8)
    assert (one.base, one.adapter, one.head) == (four.base, four.adapter, four.head)
    assert one.attention == 4 * four.attention


def test_the_size_of_a_real_step() -> None:
    work = step_work(SMOLLM2, 16, [190] * 8, 700)
    # 4 operations for each of 106 million weights and 1,520 tokens, less what is left out, and the rest.
    assert work.base == pytest.approx(4 * 1520 * 106.2e6, rel=0.03)
    assert work.total == pytest.approx(7.6e11, rel=0.05)
