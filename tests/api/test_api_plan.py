"""A plan in Python: what the verb says, as numbers with names, and as a notebook shows it."""

from __future__ import annotations

import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_machine import SMALL
from whole_run import Job
from whole_run import packtrain as verb

import packtrain
from packtrain.errors import ConfigError, ConflictError, GateError
from packtrain.plan import companion
from packtrain.plan.suggest import Suggestion
from packtrain.run.planned import recall


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    machines = tmp_path / "machines.toml"
    machines.write_text(SMALL.format(memory=830))
    monkeypatch.setenv("PACKTRAIN_MACHINES", str(machines))


def test_a_plan_is_the_verbs(job: Job) -> None:
    threads = torch.get_num_threads()
    plan = packtrain.plan(job.run_file, {"plan.gpu": "small"}, progress=False)
    assert plan.fits and plan.check() is plan
    said = verb("plan", str(job.run_file), "-s", "plan.gpu=small", "--json")
    assert json.loads(said.out) == json.loads(json.dumps(plan.to_json()))
    assert repr(plan) + "\n" == verb("plan", str(job.run_file), "-s", "plan.gpu=small").out
    assert sum(plan.memory.values()) < plan.needed_bytes < plan.available_bytes == 830 << 20
    assert plan.seconds is not None and plan.usd is not None
    assert 0 < plan.seconds.low < plan.seconds.expected < plan.seconds.high
    assert plan.usd.expected == pytest.approx(plan.seconds.expected / 100, rel=0.01)  # 36 USD an hour
    assert plan.suggestions == ()
    assert torch.get_num_threads() == threads
    page = plan._repr_html_()
    assert "fits" in page and "USD" in page and "1 × small-1g" in page
    # A run tells what was planned for it beside what came.
    kept = recall(packtrain.load(job.run_file), "cuda")
    assert kept is not None and kept.reserved_bytes == plan.needed_bytes


def test_what_does_not_fit_is_an_answer_with_what_would(job: Job) -> None:
    found = packtrain.plan(job.run_file, {"plan.gpu": "small"}, progress=False).answer
    machine = found.plan.target.machine
    assert machine is not None
    # What is suggested is the verb's, and takes a minute to find: said here.
    less = Suggestion("micro-batches of 2", ("train.micro_batch=2",), 1, 2, None, found.plan.cost)
    target = replace(found.plan.target, machine=replace(machine, gpu_memory=1 << 20))
    plan = packtrain.Plan(replace(found, plan=replace(found.plan, target=target), suggestions=(less,)))
    assert not plan.fits
    with pytest.raises(GateError, match="tiny does not fit") as raised:
        plan.check()
    assert raised.value.hint == "micro-batches of 2: -s train.micro_batch=2"
    assert raised.value.__notes__ == [f"hint: {raised.value.hint}"]
    page = plan._repr_html_()
    assert "DOES NOT FIT" in page and "train.micro_batch=2" in page


def test_nothing_of_a_page_is_markup(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = packtrain.plan(job.run_file, {"plan.gpu": "small", "data.max_length": 512}, progress=False)
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", plan._repr_html_())


@pytest.mark.parametrize("override", [{"plan.gpux": "l4"}, {"plan.gpu": "no-such"}, {"train.epoch": 1}])
def test_wrong_keys_are_said_before_anything_is_imported(job: Job, override: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        packtrain.plan(job.run_file, override, progress=False)


def test_a_process_with_threads_is_not_forked(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook has some: a lock that one of them holds would stay locked in a child."""
    monkeypatch.setattr(companion, "_helps", lambda: True)
    started: list[int] = []

    class Counted(companion.Companion):
        def __init__(self) -> None:
            started.append(1)
            super().__init__()

    monkeypatch.setattr(companion, "Companion", Counted)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        # Of other sizes than elsewhere here, which would be known already.
        packtrain.plan(job.run_file, {"plan.gpu": "small", "train.micro_batch": 3}, progress=False)
    finally:
        stop.set()
        thread.join()
    assert started == []
    assert "packtrain.plan.companion" in sys.modules


def test_one_plan_at_a_time(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process answers one question at a time."""
    refused: list[BaseException] = []

    def other() -> None:
        try:
            packtrain.plan(job.run_file, {"plan.gpu": "small"}, progress=False)
        except ConflictError as error:
            refused.append(error)

    class Asking:
        def stage(self, _text: str) -> None:
            if not refused:
                thread = threading.Thread(target=other)
                thread.start()
                thread.join()

        def close(self) -> None: ...

    monkeypatch.setattr("packtrain.train.progress.make_progress", Asking)
    packtrain.plan(job.run_file, {"plan.gpu": "small"})
    assert len(refused) == 1
