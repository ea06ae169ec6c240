"""A mixture that a run began with: its commits hold, and another mixture is another run."""

from __future__ import annotations

from typing import Any

import pytest
from launches import config_of

from packtrain.config import RunConfig, config_hash, identity
from packtrain.errors import PacktrainError
from packtrain.kube.whose import as_it_began
from packtrain.rundir import RunIdentity

OLD, NEW = "a" * 40, "b" * 40


def mixed(*revisions: str | None, weight: float = 2.0) -> RunConfig:
    train: list[dict[str, Any]] = [
        {"source": f"org/rows{number}", "revision": revision, "weight": weight}
        for number, revision in enumerate(revisions)
    ]
    return config_of(data={"train": train})


def began(config: RunConfig) -> RunIdentity:
    return RunIdentity(config.name, "01J" + "0" * 23, config_hash(config), identity(config), "2026-01-01")


def test_a_branch_that_moved_is_read_where_the_run_began() -> None:
    known = began(mixed(OLD, OLD))
    assert as_it_began(mixed(None, "main"), known).data.revisions == (OLD, OLD)
    assert as_it_began(mixed(OLD, None), known).data.revisions == (OLD, OLD)


def test_other_commits_weights_and_sources_are_another_run() -> None:
    known = began(mixed(OLD, OLD))
    for other in (mixed(NEW, None), mixed(None, None, weight=3.0), mixed(None), mixed(None, None, None)):
        with pytest.raises(PacktrainError, match=r"data\.train"):
            as_it_began(other, known)
    plain = began(config_of(data={"train": "org/rows0", "revision": OLD}))
    with pytest.raises(PacktrainError, match=r"data\.train"):
        as_it_began(mixed(None), plain)
