"""What submit asks the planner, and what of it goes into the pod."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_machine import SMALL
from tiny import make_tiny_base

from packtrain.config import RunConfig
from packtrain.errors import GateError
from packtrain.kube.launch import Launch
from packtrain.kube.planning import plan_first
from packtrain.kube.pod import environment
from packtrain.plan.summary import Summary


def config(base: Path, machines: Path, monkeypatch: pytest.MonkeyPatch, memory: int) -> RunConfig:
    machines.write_text(SMALL.format(memory=memory))
    monkeypatch.setenv("PACKTRAIN_MACHINES", str(machines))
    rows = machines.with_name("rows.jsonl")
    rows.write_text('{"instruction": "What?", "context": "", "response": "That."}\n' * 20)
    plain: dict[str, Any] = {
        "name": "run",
        "model": {"source": str(base)},
        "data": {"train": str(rows), "max_length": 128},
        "train": {"micro_batch": 8},
        "cluster": {"machine": "small-1g"},
        "output": {"uri": "gs://bucket/out"},
    }
    return RunConfig.model_validate(plain)


@pytest.mark.slow
def test_what_fits_is_said_with_time_and_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run = config(make_tiny_base(tmp_path / "base"), tmp_path / "machines.toml", monkeypatch, 2000)
    summary = plan_first(run, said.append)
    assert summary is not None
    assert summary.seconds is not None
    assert summary.usd is not None
    assert len(said) == 1
    assert "of 2.0 GiB" in said[0]
    assert "USD" in said[0]


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_what_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(make_tiny_base(tmp_path / "base"), tmp_path / "machines.toml", monkeypatch, 400)
    with pytest.raises(GateError, match=r"run does not fit: a step needs 0\.8 GiB") as caught:
        plan_first(run, lambda _: None)
    assert "cluster.machine=" in str(caught.value.hint)


def test_what_cannot_be_planned_is_said_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    (tmp_path / "empty").mkdir()
    run = config(tmp_path / "empty", tmp_path / "machines.toml", monkeypatch, 2000)
    assert plan_first(run, said.append) is None
    assert said[0].startswith("Not planned: ")
    assert "no config.json" in said[0]


def test_the_pod_gets_the_plan_and_a_price_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(tmp_path, tmp_path / "machines.toml", monkeypatch, 2000)
    launch = Launch(run, "", "01ABC", "image", "hash")
    before = {variable.name for variable in environment(launch)}
    assert "PACKTRAIN_PLANNED" not in before
    summary = Summary("cuda", 1, 2, 8, None, None, None, None, None)
    told = {each.name: each.value for each in environment(replace(launch, planned=summary.to_json()))}
    assert Summary.from_json(str(told["PACKTRAIN_PLANNED"])) == summary
    assert told["PACKTRAIN_USD"] == "36.0"
    listed = run.model_copy(update={"cluster": run.cluster.model_copy(update={"machine": "g2-standard-8"})})
    assert "PACKTRAIN_USD" not in {each.name for each in environment(replace(launch, config=listed))}
