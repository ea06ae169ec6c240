"""Two processes answer what one does, to the byte; and one goes on alone where the other is gone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from plan.test_memory import small

from packtrain.errors import ConfigError
from packtrain.plan import companion, memory
from packtrain.plan.companion import Companion, observe_both
from packtrain.plan.graph import observe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process is forked on Linux alone")


@pytest.fixture
def other() -> Iterator[Companion]:
    found = Companion()
    yield found
    found.close()


def test_the_same_in_two_processes(other: Companion) -> None:
    for setup in (small(), small(gpus=8, sharding="fsdp", checkpointing=False)):
        assert other.both((setup, 3), (setup, 4)) == (observe(setup, 3), observe(setup, 4))


def test_a_plan_is_the_same_beside_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    setup = small(gpus=2, sharding="fsdp")
    found = []
    for beside in (False, True):
        monkeypatch.setattr(memory, "profiles", {})
        memory._observed.cache_clear()
        if beside:
            with companion.companion():
                found.append(memory.trace(setup))
                assert companion._place.companion is not None
        else:
            found.append(memory.trace(setup))
    assert companion._place.companion is None
    assert found[0] == found[1]


def test_one_core_does_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with companion.companion():
        observe_both((small(), 3), (small(), 4))
        assert companion._place.companion is None


def test_a_companion_that_was_killed_is_not_missed(other: Companion) -> None:
    setup = small()
    assert other._process.pid is not None
    os.kill(other._process.pid, signal.SIGKILL)
    other._process.join()
    for _ in range(2):
        assert other.both((setup, 3), (setup, 4)) == (observe(setup, 3), observe(setup, 4))


def test_what_cannot_be_traced_is_told_and_the_next_is_traced(other: Companion) -> None:
    broken = replace(small(), model='{"model_type": "nobody\'s"}')
    with pytest.raises(ConfigError, match=r"config\.json"):
        other.both((broken, 3), (broken, 4))
    assert other.both((small(), 3), (small(), 4))[1].layers == 4
