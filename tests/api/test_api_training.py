"""Training in somebody else's process: what comes of it, how it is stopped, and what it leaves behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whole_run import ROOT, Job, facts, make_job, write_rows

import packtrain
from packtrain.api import guest
from packtrain.errors import ConfigError, ConflictError, GateError, PreemptedError, UsageError
from packtrain.rundir import Event, RunDir
from packtrain.train.preemption import STOPS
from packtrain.train.progress import Silent

#: No adapter is as good as that.
GATE = {"evaluate.fail_if.loss_above": 0.01}


class Doing(Silent):
    """Calls something at a step's event."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._step, self._act = step, act

    def event(self, event: Event) -> None:
        if event.kind == "step" and event.step == self._step:
            self._act()


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    def set_up(step: int, act: Callable[[], None]) -> None:
        monkeypatch.setattr("packtrain.train.progress.make_progress", lambda: Doing(step, act))

    return set_up


def weights(trained: packtrain.Trained) -> bytes:
    assert trained.folder is not None
    return (trained.folder / "adapter_model.safetensors").read_bytes()


def state() -> dict[str, Any]:
    """Of this process, all that a run changes while it goes."""
    return {
        "signals": [signal.getsignal(number) for number in STOPS],
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook),
        "streams": (sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "torch threads": torch.get_num_threads(),
        "randomness": (torch.random.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
        "type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "frozen": gc.get_freeze_count(),
        "threads": {each for each in threading.enumerate() if not each.name.startswith("tqdm")},
    }


def test_a_run_from_start_to_end(job: Job, base: Path) -> None:
    asked = [{"prompt": "What is fact 1?", "expect": "7"}]
    run = packtrain.load(job.run_file, {"evaluate.prompts": asked})
    trained = packtrain.train(run, run_dir=job.run_dir.path, progress=False)
    assert not trained.already_finished
    assert trained.published is None
    assert trained.folder == job.run_dir.adapter
    assert trained.receipt.run_id == job.receipt()["run_id"]
    assert trained.metrics["loss"] < trained.metrics["base_loss"]
    assert [answer.prompt for answer in trained.answers] == ["What is fact 1?"]
    assert trained.receipt.run_id in repr(trained)
    assert "<table>" in trained._repr_html_()

    again = packtrain.train(run, run_dir=job.run_dir.path, progress=False)
    assert again.already_finished
    assert again.receipt == trained.receipt
    assert again.answers == trained.answers


def test_two_runs_in_one_process_are_the_same_and_leave_it_as_it_was(job: Job) -> None:
    """Also the second: what the first one set would show in it."""
    job.done("--run-dir", str(job.folder / "verb"))  # the last one counts
    expected = (RunDir(job.folder / "verb").adapter / "adapter_model.safetensors").read_bytes()
    before, threads = state(), torch.get_num_threads()
    for name in ("first", "second"):
        # One thread, as the run file says; the next run is not to find that.
        trained = packtrain.train(job.run_file, run_dir=job.folder / name, progress=False)
        assert weights(trained) == expected
        assert torch.get_num_threads() == threads
    assert state() == before


def test_threads_are_put_back_after_a_failure(job: Job) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(GateError, match=r"the validation loss .* is above"):
            packtrain.train(job.run_file, GATE, run_dir=job.run_dir.path, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def used_torch() -> Iterator[None]:
    """A process in which somebody else has worked."""
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_float32_matmul_precision("highest")


def test_what_somebody_else_has_set_changes_nothing(
    job: Job, request: pytest.FixtureRequest, base: Path
) -> None:
    expected = weights(packtrain.train(job.run_file, run_dir=job.folder / "new", progress=False))
    request.getfixturevalue("used_torch")
    trained = packtrain.train(job.run_file, run_dir=job.folder / "used", progress=False)
    assert weights(trained) == expected
    assert not torch.is_grad_enabled()
    assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.bfloat16, "meta")
    assert torch.get_float32_matmul_precision() == "medium"
    with torch.inference_mode():
        packtrain.train(job.run_file, {"train.max_steps": 1}, run_dir=job.folder / "more", progress=False)
        assert torch.is_inference_mode_enabled()


def models() -> list[object]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each).__name__ == "LlamaForCausalLM"]


def test_no_model_stays(job: Job, at_step: Callable[[int, Callable[[], None]], None]) -> None:
    """Neither of a run that ended well, nor with the error that a notebook keeps."""
    before = len(models())
    trained = packtrain.train(job.run_file, run_dir=job.folder / "well", progress=False)
    assert trained.folder is not None and len(models()) == before
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(PreemptedError) as stopped:
        packtrain.train(job.run_file, run_dir=job.folder / "stopped")
    with pytest.raises(GateError) as failed:
        packtrain.train(job.run_file, GATE, run_dir=job.folder / "failed", progress=False)
    assert stopped.value.__traceback__ and failed.value.__traceback__
    assert len(models()) == before


def test_in_a_thread(job: Job) -> None:
    found: list[packtrain.Trained] = []
    before = state()
    thread = threading.Thread(
        target=lambda: found.append(packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False))
    )
    thread.start()
    thread.join()
    assert found[0].receipt.steps == 6
    assert state() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_goes_on(
    job: Job, number: signal.Signals, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    unbroken = packtrain.train(job.run_file, run_dir=job.folder / "unbroken", progress=False)
    before = state()
    at_step(3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(PreemptedError, match=rf"stopped by {number.name} after step 3 of 6") as raised:
        packtrain.train(job.run_file, run_dir=job.run_dir.path)
    assert "the same command goes on" in raised.value.__notes__[0]
    shown = "".join(traceback.format_exception(raised.value))
    assert shown.count("Traceback") == 1 and "StopBetweenSteps" not in shown
    assert state() == before
    assert job.story()[-1].kind == "preempted"

    resumed = packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False)
    assert [event.fields["resumed_from"] for event in job.story("start")] == [None, 3]
    assert weights(resumed) == weights(unbroken)


def test_a_second_interrupt_ends_at_once_and_many_do_not_end_the_process(
    job: Job, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    heard = []

    def impatient() -> None:
        for _ in range(6):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                heard.append("raised")
        raise KeyboardInterrupt

    before = state()
    at_step(3, impatient)
    with pytest.raises(KeyboardInterrupt):
        packtrain.train(job.run_file, run_dir=job.run_dir.path)
    assert heard == ["raised"] * 4  # the first is noted, and the third is on its way
    assert state() == before
    trained = packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False)
    assert trained.receipt.steps == 6


def test_a_stop_longer_than_the_grace_does_not_end_the_process(
    job: Job, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    """A verb's process is ended when its grace is nearly over; a notebook's is not ours."""
    waited = threading.Event()

    def stop_and_dawdle() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        waited.wait(1.2)

    at_step(3, stop_and_dawdle)
    with pytest.raises(PreemptedError, match="after step 3"):
        packtrain.train(job.run_file, {"checkpoint.grace": "1s"}, run_dir=job.run_dir.path)


def test_one_run_at_a_time(job: Job, at_step: Callable[[int, Callable[[], None]], None]) -> None:
    """A run's lock is its process's: two threads of one would both have it."""
    refused: list[BaseException] = []

    def other() -> None:
        try:
            packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False)
        except ConflictError as error:
            refused.append(error)

    def meanwhile() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    at_step(2, meanwhile)
    packtrain.train(job.run_file, run_dir=job.run_dir.path)
    assert "in this process already" in str(refused[0])
    assert not guest._turn.locked()


def test_other_settings_are_refused_as_the_verb_refuses_them(job: Job) -> None:
    packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False)
    with pytest.raises(ConfigError, match=r"train\.epochs: 3\.0 -> 2\.0"):
        packtrain.train(job.run_file, {"train.epochs": 2}, run_dir=job.run_dir.path, progress=False)
    trained = packtrain.train(
        job.run_file, {"train.epochs": 2}, run_dir=job.run_dir.path, new=True, progress=False
    )
    assert trained.receipt.steps == 4


def test_the_folder_is_beside_the_caller(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job.folder)
    trained = packtrain.train(job.run_file, progress=False)
    assert trained.run_dir == Path("runs/tiny")
    assert trained.folder == Path("runs/tiny/adapter")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "is one of several already"),
        ({"PACKTRAIN_NODES": "2", "PACKTRAIN_NODE_RANK": "0", "PACKTRAIN_MASTER_ADDR": "a"}, "already"),
        ({"PACKTRAIN_NODES": "two"}, "is no whole number"),
    ],
)
def test_one_of_several_processes_is_refused(
    job: Job, variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=sentence):
        packtrain.train(job.run_file, run_dir=job.run_dir.path)
    assert not job.run_dir.path.exists()


def test_a_full_disk_is_told_as_on_the_command_line() -> None:
    with pytest.raises(packtrain.PacktrainError, match=r"^out of memory") as raised, guest.sentences():
        raise MemoryError
    assert raised.value.exit_code == 71
    assert raised.value.__notes__
    with pytest.raises(ZeroDivisionError), guest.sentences():
        print(1 / 0)


def test_bad_data_names_the_row(job: Job) -> None:
    write_rows(job.folder / "train.jsonl", [*facts(3), {"instruction": 3}])
    with pytest.raises(packtrain.PacktrainError, match=r"train\.jsonl:4") as raised:
        packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False)
    assert raised.value.exit_code == 65


def test_what_was_finished_elsewhere_is_loaded_from_where_it_was_published(
    tmp_path: Path, base: Path
) -> None:
    job = make_job(tmp_path / "job", base, output={"uri": str(tmp_path / "published")})
    trained = packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False)
    assert trained.published == str(tmp_path / "published")
    here = trained.load(progress=False)
    answer = here.chat("What is fact 1?", max_new_tokens=8)
    assert (tmp_path / "published" / "receipt.json").exists()
    (job.run_dir.adapter / "adapter_model.safetensors").unlink()
    for path in [*job.run_dir.adapter.iterdir()]:
        path.unlink()
    job.run_dir.adapter.rmdir()
    assert trained.folder is None
    assert trained.load(progress=False).chat("What is fact 1?", max_new_tokens=8) == answer


FRESH = """
import gc, sys, threading, weakref
import packtrain
class Knot: pass
knot = Knot(); knot.itself = knot; gone = weakref.ref(knot)
trained = packtrain.train(sys.argv[1], run_dir=sys.argv[2], progress=False)
del knot
gc.collect()
print(gone(), gc.get_freeze_count(), gc.isenabled())
print(trained.load(progress=False).chat("What?", max_new_tokens=2) is not None, gc.get_freeze_count())
print([each.name for each in threading.enumerate() if not each.daemon])
"""


@pytest.mark.slow
def test_a_new_process_collects_its_own_garbage_and_ends(job: Job) -> None:
    """The imports of a run leave what is there out of collections, which is for a process of ours alone."""
    ended = subprocess.run(
        [sys.executable, "-c", FRESH, str(job.run_file), str(job.run_dir.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout.splitlines() == ["None 0 True", "True 0", "['MainThread']"], ended.stderr
    assert ended.stderr == ""
    assert ended.returncode == 0
