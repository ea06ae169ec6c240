"""Time and cost of a run as sums and products of what is known, and no price where none is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from packtrain.config import CheckpointConfig, EvaluateConfig, RunConfig
from packtrain.data.tokenized import TokenizedRows
from packtrain.plan.cost import cost_of, preemptions_of
from packtrain.plan.data import DataStats, of_rows
from packtrain.plan.duration import Duration, evaluations
from packtrain.plan.interval import Interval
from packtrain.plan.machines import machine
from packtrain.plan.target import Target

HOUR = Interval(1800.0, 3600.0, 7200.0)
NONE = Interval.exactly(0.0)
AN_HOUR = Duration(NONE, HOUR, NONE, NONE, NONE, steps=60)


def config(**sections: dict[str, Any]) -> RunConfig:
    plain = {"name": "x", "model": {"source": "m"}, "data": {"train": "d"}}
    return RunConfig.model_validate(plain | sections)


def rows(lengths: list[int]) -> TokenizedRows:
    arrays = [np.ones(length, dtype=np.int32) for length in lengths]
    masks = [np.arange(length) >= length // 2 for length in lengths]
    return TokenizedRows.of(arrays, masks, [str(index) for index in range(len(lengths))])


def test_cost_is_hours_times_nodes_times_price() -> None:
    two = Target(machine("a3-megagpu-8g"), 16)
    run = config(cluster={"capacity": "on-demand"})
    cost = cost_of(run, two, AN_HOUR, None)
    assert cost.usd is not None
    assert cost.usd.expected == pytest.approx(2 * 92.2143)
    assert (cost.usd.low, cost.usd.high) == pytest.approx((92.2143, 4 * 92.2143))
    assert cost.preemptions is None


def test_a_price_that_is_not_known_is_asked_for() -> None:
    cost = cost_of(config(), Target(machine("a4-highgpu-8g"), 8), AN_HOUR, None)
    assert cost.usd is None
    assert "machines.toml: [prices.machines.a4-highgpu-8g] spot" in cost.why
    assert cost.price is not None
    assert cost.price.usd is None


def test_cost_without_time_and_on_this_machine_is_not_known() -> None:
    assert (
        cost_of(config(), Target(machine("a3-megagpu-8g"), 8), None, None).why
        == "how long it takes is not known"
    )
    assert cost_of(config(), Target(None, 1), AN_HOUR, None).usd is None


def test_spot_costs_the_work_that_preemptions_take() -> None:
    spot = config(cluster={"capacity": "spot"}, checkpoint={"every": "10m"})
    one = Target(machine("a3-megagpu-8g"), 8)
    day = replace(AN_HOUR, training=Interval.exactly(86_400.0), startup=Interval.exactly(100.0))
    calm, busy = (cost_of(spot, one, day, rate) for rate in (0.0, 10.0))
    assert calm.usd is not None
    assert busy.usd is not None
    assert calm.usd.expected == pytest.approx(28.1701 * 86_500 / 3600)
    assert busy.preemptions is not None
    # Ten a day; each costs a start, and as expected a quarter of the ten minutes.
    assert busy.preemptions.expected.expected == pytest.approx(10, rel=0.01)
    assert busy.preemptions.lost.expected == pytest.approx(10 * (100 + 150), rel=0.01)
    assert busy.preemptions.lost.high == pytest.approx(10 * (100 + 600), rel=0.01)
    unknown = cost_of(spot, one, day, None).preemptions
    assert unknown is not None
    assert "nothing is published" in unknown.source


def test_any_node_that_goes_stops_the_run() -> None:
    four = preemptions_of(CheckpointConfig(), 4, AN_HOUR, 0.5)
    assert four.expected.expected == pytest.approx(4 * 0.5 / 24)
    by_steps = preemptions_of(CheckpointConfig(every=10), 1, AN_HOUR, 24.0)
    assert by_steps.lost.high == pytest.approx(2 * 600)  # two hours at most, ten of sixty steps each


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(0.25, 100, 5), (0.1, 66, 11), (30, 100, 5), (1.0, 10, 2), (50, 10, 2)]
)
def test_evaluations_are_those_that_the_loop_does(every: float | int, steps: int, expected: int) -> None:
    from packtrain.config import CheckpointConfig
    from packtrain.run.settings import make_schedule

    evaluate = EvaluateConfig(every=every)
    schedule = make_schedule(evaluate, CheckpointConfig(), steps, has_validation=True)
    assert evaluations(evaluate, steps) == expected
    assert sum(schedule.evaluation_due(step) for step in range(steps + 1)) == expected


def test_steps_and_tokens_are_those_of_the_batch_plan() -> None:
    run = config(data={"train": "d", "max_length": 64}, train={"batch_tokens": 128, "epochs": 2.0})
    found = of_rows(run, rows([64, 32, 32, 64]), 4, 0, whole=True)
    assert (found.tokens, found.bins, found.steps_per_epoch, found.steps) == (192, 3, 2, 4)
    assert (found.packing_efficiency, found.supervised, found.error) == (1.0, 0.5, 0.0)
    assert found.trained_tokens == 384


def test_a_sample_stands_for_all_rows_and_says_how_far_off_it_may_be() -> None:
    run = config(data={"train": "d", "max_length": 256})
    draw = np.random.default_rng(0).integers(10, 200, 20_000)
    whole = of_rows(run, rows(draw.tolist()), len(draw), 0, whole=True)
    sampled = of_rows(run, rows(draw[::20].tolist()), len(draw), 0, whole=False)
    assert 0.01 < sampled.error < 0.1
    assert sampled.tokens == pytest.approx(whole.tokens, rel=sampled.error)
    assert sampled.steps == pytest.approx(whole.steps, rel=sampled.error)
    assert isinstance(sampled, DataStats)


def test_an_interval_is_ordered_and_adds_up() -> None:
    assert Interval(1, 2, 3) + Interval(1, 1, 1) == Interval(2, 3, 4)
    assert Interval(1, 2, 3) * 2 == Interval(2, 4, 6)
    assert Interval(10, 10, 10).widened(0.1) == Interval(9, 10, 11)
    with pytest.raises(AssertionError):
        Interval(2, 1, 3)
