"""The benchmark's arithmetic: medians, spread, and ratios within a round."""

from __future__ import annotations

from typing import Any

import pytest
from compare import threads
from comparison import Spread, as_json, ratios, rows, table
from contestants import CONTESTANTS, DEFAULT, RIVALS, TABLE


def run(cpu: float, memory: float = 2e9, wall: float = 10.0, losses: tuple[float, ...] = (1.5, 1.4)) -> Any:
    """What a process of two steps with 1,000 tokens each printed."""
    return {
        "steps": 2,
        "useful_tokens": 2000,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "peak_rss_bytes": memory,
        "losses": list(losses),
    }


ROUNDS = [
    {"packtrain": run(10.0), "trl-packed": run(20.0, 4e9)},
    # The machine was busy, for both: the ratio is as before.
    {"packtrain": run(40.0), "trl-packed": run(80.0, 4e9)},
    {"packtrain": run(20.0), "trl-packed": run(30.0, 4e9)},
]


def test_a_spread_is_median_least_and_most() -> None:
    spread = Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.least, spread.most) == (2.5, 1.0, 10.0)
    assert spread.text(1) == "2.5 (1.0–10.0)"
    assert Spread.of([1234.5]).text(0) == "1,234"
    with pytest.raises(ValueError, match="nothing"):
        Spread.of([])


def test_figures_are_a_step_and_a_second() -> None:
    ours, theirs = rows(ROUNDS)
    assert (ours.name, ours.rounds, ours.tokens_a_step, ours.first_loss) == ("packtrain", 3, 1000.0, 1.5)
    assert ours.cpu_seconds_a_step == Spread(10.0, 5.0, 20.0)
    assert ours.tokens_per_cpu_second == Spread(100.0, 50.0, 200.0)
    assert ours.tokens_per_second == Spread(200.0, 200.0, 200.0)
    assert theirs.peak_rss_bytes.median == 4e9


def test_ratios_are_taken_within_a_round() -> None:
    (ratio,) = ratios(ROUNDS, {"packtrain": ("trl-packed", "trl-default")})
    assert (ratio.ours, ratio.rival) == ("packtrain", "trl-packed")
    assert ratio.speed == Spread(2.0, 1.5, 2.0)
    assert ratio.memory == Spread(0.5, 0.5, 0.5)


def test_one_that_failed_in_a_round_is_left_out_of_that_round() -> None:
    (ratio,) = ratios([{"packtrain": run(1.0)}, *ROUNDS[:1]], {"packtrain": ("trl-packed",)})
    assert ratio.speed == Spread(2.0, 2.0, 2.0)
    assert [row.rounds for row in rows([{"packtrain": run(1.0)}, *ROUNDS[:1]])] == [2, 1]


def test_the_table_has_a_line_for_each_and_for_each_ratio() -> None:
    lines = table(ROUNDS, {"packtrain": ("trl-packed",)}).splitlines()
    assert lines[2] == "| packtrain | 10.0 (5.0–20.0) | 100.0 (50.0–200.0) | 200.0 | 2.0 | 1.5000 |"
    assert lines[-1] == "| packtrain / trl-packed | 2.00 (1.50–2.00) | 1.00 | 0.50 |"
    assert "×" not in table([{"packtrain": run(1.0, losses=())}], RIVALS)


def test_the_json_holds_the_rounds_too() -> None:
    made = as_json(ROUNDS, {"packtrain": ("trl-packed",)})
    assert made["rounds"] == ROUNDS
    assert made["ratios"][0]["speed"] == {"median": 2.0, "least": 1.5, "most": 2.0}


def test_every_name_that_is_compared_is_a_contestant() -> None:
    assert {*RIVALS, *DEFAULT, *(name for rivals in RIVALS.values() for name in rivals)} <= set(CONTESTANTS)


def test_the_table_shows_each_of_ours_beside_its_rivals() -> None:
    assert set(TABLE) <= set(CONTESTANTS)
    for ours in ("packtrain", "packtrain-lean", "packtrain-full"):
        assert ours in TABLE and set(RIVALS[ours]) & set(TABLE)


def test_a_table_for_each_number_of_threads() -> None:
    assert threads("1") == [1] and threads("1,2") == [1, 2]
    for wrong in ("0", "two", ""):
        with pytest.raises(ValueError):
            threads(wrong)
