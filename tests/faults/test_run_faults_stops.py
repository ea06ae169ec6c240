"""A run is stopped or killed at every stage, by real signals: the same command then ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standins.bucket import BucketServer, Fault
from whole_run import ROOT, Job, facts, make_job, packtrain, wait_until, write_rows

pytestmark = pytest.mark.slow

STOPS = [signal.SIGINT, signal.SIGTERM]


def long_job(folder: Path, base: Path, *, validation_rows: int = 4) -> Job:
    """Sixty steps of some 20 ms; an evaluation every fifth, of one row at a time."""
    job = make_job(
        folder,
        base,
        data={"validation": "held-out.jsonl", "packing": False},
        train={"epochs": 20, "micro_batch": 1},
        checkpoint={"every": 4},
        evaluate={"every": 5},
    )
    write_rows(folder / "held-out.jsonl", facts(validation_rows, first=100))
    return job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Job:
    made = long_job(tmp_path_factory.mktemp("undisturbed"), base)
    made.done()
    assert made.receipt()["steps"] >= 40
    return made


@pytest.fixture
def job(tmp_path: Path, base: Path) -> Job:
    return long_job(tmp_path / "job", base)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send the signal; the run has to end as a preempted one. Its stderr."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert f"stopped by {number.name}" in err
    return err


def ends_as(job: Job, undisturbed: Job) -> None:
    job.done()
    assert job.weights() == undisturbed.weights()
    assert job.losses() == undisturbed.losses()
    evals = [(event.step, event.fields["loss"]) for event in job.story("eval")]
    assert evals == [(event.step, event.fields["loss"]) for event in undisturbed.story("eval")]
    kept = ("base_loss", "loss", "train_loss")
    ours, theirs = job.receipt(), undisturbed.receipt()
    assert [ours["metrics"][key] for key in kept] == [theirs["metrics"][key] for key in kept]
    assert ours["tokens"] == theirs["tokens"]


def until_stage(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(stage):
            return
    raise AssertionError(f"ended with {process.wait()} before {stage}")


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("stage", ["getting the tokenizer", "loading"])
def test_a_stop_while_starting_up(job: Job, number: signal.Signals, stage: str) -> None:
    with job.process() as process:
        until_stage(process, stage)
        stop(process, number)
    assert [event.kind for event in job.all_events()] in (
        ["preempted"],
        ["start", "preempted"],
        ["start", "data", "preempted"],
    )
    assert not job.run_dir.lock_file.exists()


@pytest.mark.parametrize(("number", "delay"), zip(STOPS * 2, (0.1, 0.4, 0.8, 1.2), strict=True))
def test_a_stop_at_any_time_in_the_imports(job: Job, number: signal.Signals, delay: float) -> None:
    with job.process() as process:
        wait_until(job.run_dir.identity_file.exists, process)
        time.sleep(delay)
        stop(process, number)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_sigterm_before_the_run_listens(job: Job, processes: str) -> None:
    """As soon as the command line is read: 75, too."""
    command = (
        "import packtrain.cli.main as m\nm.main = lambda: print('ready', flush=True) or input()\nm.entry()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, *job.arguments("--processes", processes)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(60) == 75


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_in_training(job: Job, undisturbed: Job, number: signal.Signals) -> None:
    with job.process() as process:
        job.wait_for("step", 9, process)
        err = stop(process, number)
    assert "what was done is saved" in err
    last = job.all_events()[-1]
    assert (last.kind, last.fields["signal"]) == ("preempted", number.name)
    done = job.losses()
    assert 9 <= len(done) < 60
    ends_as(job, undisturbed)
    assert job.story("start")[-1].fields["resumed_from"] == len(done) == last.step


def test_a_stop_in_an_evaluation(tmp_path: Path, base: Path) -> None:
    whole = long_job(tmp_path / "whole", base, validation_rows=250)
    whole.done("-s", "train.max_steps=10")
    job = long_job(tmp_path / "job", base, validation_rows=250)
    with job.process("-s", "train.max_steps=10") as process:
        job.wait_for("step", 5, process)
        time.sleep(0.05)
        stop(process, signal.SIGTERM)
    assert [event.step for event in job.story("eval")] == [0]
    assert job.story("checkpoint")[-1].step == 5
    job.done("-s", "train.max_steps=10")
    assert job.weights() == whole.weights()
    assert [event.step for event in job.story("eval")] == [0, 5, 10]


def test_a_stop_in_the_evaluation_of_the_base(tmp_path: Path, base: Path) -> None:
    job = long_job(tmp_path / "job", base, validation_rows=250)
    with job.process() as process:
        job.wait_for("start", 0, process)
        time.sleep(0.05)
        stop(process, signal.SIGTERM)
    assert [event.kind for event in job.all_events()] == ["start", "data", "preempted"]


@pytest.mark.parametrize("step", [2, 9])
def test_a_kill_in_training(job: Job, undisturbed: Job, step: int) -> None:
    with job.process() as process:
        job.wait_for("step", step, process)
        process.kill()
    ends_as(job, undisturbed)
    assert job.story("start")[-1].fields["resumed_from"] == (None if step == 2 else 8)


@pytest.mark.parametrize("stage", ["answering", "writing the adapter", "loading it again"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cut_after_training(tmp_path: Path, base: Path, stage: str, number: signal.Signals) -> None:
    prompts = {"prompts": ["Hello?", "And then?"], "max_new_tokens": 64}
    whole = make_job(tmp_path / "whole", base, evaluate=prompts)
    whole.done()
    job = make_job(tmp_path / "job", base, evaluate=prompts)
    with job.process() as process:
        until_stage(process, stage)
        if number == signal.SIGKILL:
            process.kill()
            process.wait()
        else:
            stop(process, number)
    assert not job.run_dir.receipt_file.exists()
    job.done()
    assert job.weights() == whole.weights()
    assert told(job) == told(whole) + (number == signal.SIGTERM) + 1  # a start


def told(job: Job) -> int:
    """Events in all but checkpoints, whose number depends on how fast the disk is, and those that each start
    tells again: of the data, and of answers that are given anew."""
    return sum(event.kind not in ("checkpoint", "data", "answers") for event in job.all_events())


@pytest.mark.parametrize("number", STOPS)
def test_signals_one_after_the_other(job: Job, undisturbed: Job, number: signal.Signals) -> None:
    with job.process() as process:
        job.wait_for("step", 9, process)
        for _ in range(3):
            process.send_signal(number)
            time.sleep(0.002)
        _, err = process.communicate(timeout=60)
    # A second Ctrl-C ends at once, without saving.
    assert process.returncode in ((75, 130) if number == signal.SIGINT else (75,)), err
    assert "Traceback" not in err
    assert job.all_events()[-1].kind == "preempted"
    assert not job.run_dir.lock_file.exists()
    ends_as(job, undisturbed)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed(job: Job, undisturbed: Job, ignored: bool) -> None:
    """SIGHUP is a stop like any other; where it is ignored (nohup) training goes on without a reader."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "packtrain.cli.main", *job.arguments()]
    before = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"] if ignored else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm"}
    with subprocess.Popen(
        [*before, *command], env=environment, stdout=theirs, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        job.wait_for("step", 9, process)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(180) == (0 if ignored else 75)
    last = job.all_events()[-1]
    assert (last.kind, last.fields.get("signal")) == (("end", None) if ignored else ("preempted", "SIGHUP"))
    ends_as(job, undisturbed)
    assert len(job.story("start")) == 2 - ignored


#: In place of training: a call of C code that lets other threads run, and takes minutes.
STUCK = """
import hashlib, sys
from packtrain.cli.main import entry
from packtrain.run import training
def make_adapter(session):
    session.emit("warning", 0, message="stuck")
    hashlib.pbkdf2_hmac("sha256", b"p", b"s", 2_000_000_000)
training.make_adapter = make_adapter
entry()
"""


def test_a_run_that_is_stuck_ends_in_its_grace_and_says_so(job: Job, undisturbed: Job) -> None:
    arguments = job.arguments("-s", "checkpoint.grace=2s")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        job.wait_for("warning", 0, process)
        time.sleep(0.2)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "error: stopped by SIGTERM, and not done within 2 s: ended without saving" in err
    assert "Traceback" not in err
    last = job.all_events()[-1]
    assert (last.kind, last.fields["signal"]) == ("preempted", "SIGTERM")
    ends_as(job, undisturbed)


def test_two_processes_cannot_write_one_run(job: Job, undisturbed: Job) -> None:
    with job.process() as process:
        job.wait_for("step", 1, process)
        process.send_signal(signal.SIGSTOP)
        refused = job.train()
        process.send_signal(signal.SIGCONT)
        assert refused.code == 73
        assert f"(process {process.pid} on " in refused.err
        assert job.train("--new").code == 73
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert job.weights() == undisturbed.weights()


def test_a_stop_while_the_bucket_is_away(job: Job, undisturbed: Job, bucket_server: BucketServer) -> None:
    """It is a preemption with all saved: neither the copy nor the lock that stays there changes that."""
    uri = ("-s", f"output.uri={bucket_server.uri('final_model')}")
    with job.process(*uri, "-s", "checkpoint.grace=8s") as process:
        job.wait_for("step", 5, process)
        bucket_server.faults.add("*", ".", Fault(status=503), times=None)
        job.wait_for("step", 9, process)
        err = stop(process, signal.SIGTERM)
    assert "what was done is saved" in err and "are not copied to gs://" in err
    assert [event.kind for event in job.all_events()].count("preempted") == 1
    bucket_server.faults.clear()
    job.done(*uri)
    assert job.story("start")[-1].fields["resumed_from"] >= 9
    assert (job.weights(), job.losses()) == (undisturbed.weights(), undisturbed.losses())


class TestPublishing:
    """The stand-in keeps the fourth upload (the claim is the first) waiting: the cut is in it."""

    @pytest.fixture
    def held(self, bucket_server: BucketServer) -> Iterator[threading.Event]:
        begun, go = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            go.wait(30)

        bucket_server.faults.add("POST", "/upload/", Fault(before=wait), skip=3)
        yield begun
        go.set()

    @pytest.mark.parametrize("number", [*STOPS, signal.SIGKILL])
    def test_a_cut_in_the_middle(
        self,
        tmp_path: Path,
        base: Path,
        bucket_server: BucketServer,
        held: threading.Event,
        number: signal.Signals,
    ) -> None:
        # What is not published stays here, so that the requests that are held are the publishing ones.
        output = {"uri": bucket_server.uri("final_model"), "run_uri": str(tmp_path / "job" / "run")}
        job = make_job(tmp_path / "job", base, output=output)
        with job.process() as process:
            wait_until(held.is_set, process)
            if number == signal.SIGKILL:
                process.kill()
            else:
                stop(process, number)
        there = bucket_server.names()
        assert len(there) == 3
        assert "final_model/receipt.json" not in there
        weights, steps = job.weights(), len(job.story("step"))
        ended = job.done()
        assert ended.out.endswith(
            f"Successfully uploaded model to {bucket_server.uri('final_model')}\n"
            "Fine-tuning and GCS upload complete!\n"
        )
        assert (job.weights(), len(job.story("step"))) == (weights, steps)
        assert job.story("published")[0].fields["uri"] == bucket_server.uri("final_model")
        fetched = packtrain("fetch", bucket_server.uri("final_model"), str(tmp_path / "back"))
        assert fetched.code == 0
        receipt = json.loads((tmp_path / "back" / "receipt.json").read_text())
        assert receipt == job.receipt()
