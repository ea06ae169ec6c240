"""What checkpoints cost, from events: the share, and which steps were beside a write."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint_cost import cost

from packtrain.rundir import Event


def at(second: float, kind: str, step: int, **fields: Any) -> Event:
    return Event(kind, step, 1, 0, f"2026-11-24T05:00:{second:06.3f}Z", fields=fields)


def step(second: float, number: int, speed: float) -> Event:
    return at(second, "step", number, tokens=100, tokens_per_second=speed)


def test_the_share_and_the_steps_beside_a_write() -> None:
    found = cost(
        [
            at(0.0, "start", 0),
            step(10.0, 1, 10.0),
            step(12.0, 2, 50.0),
            step(14.0, 3, 40.0),
            at(14.0, "checkpoint", 2, seconds=1.5, mirrored=False, blocked=0.25),
            at(15.0, "checkpoint", 2, seconds=9.0, mirrored=True, blocked=0.0),
            step(16.0, 4, 50.0),
        ]
    )
    assert found.training == pytest.approx(10.0 + 2.0 + 2.5 + 2.0)
    assert (found.beside, found.alone) == ([40.0], [50.0, 50.0])
    assert found.share == pytest.approx(0.25 / 16.75)
    assert found.share_at(300.0) == pytest.approx(0.25 / 300)
