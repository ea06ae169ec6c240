"""Whole runs in two processes: the same training as in one, and nothing lost when ranks die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_run import Job, base, make_job

from packtrain.rundir import history
from packtrain.storage.checksums import sha256_file

__all__ = ["base"]
pytestmark = pytest.mark.slow


def start(job: Job, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "packtrain.cli.main", "train", "run.yaml", "--run-dir", "run", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PACKTRAIN_LINGER": "0"}
    return subprocess.Popen(
        command, cwd=job.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, err


def long_job(folder: Path, base: Path) -> Job:
    """So many steps that a signal finds it in the middle of them."""
    train = {"epochs": 30, "micro_batch": 1, "batch_tokens": 400}
    return make_job(folder, base, adapter={"dropout": 0.1}, train=train, checkpoint={"every": 5})


def wait_for_step(job: Job, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(event.kind == "step" and event.step >= step for event in history(job.run_dir.events_file)):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def adapter_hash(job: Job) -> str:
    return sha256_file(job.run_dir.adapter / "adapter_model.safetensors")


def losses(job: Job) -> list[float]:
    return [event.fields["loss"] for event in job.story("step")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Job:
    job = make_job(tmp_path_factory.mktemp("alone"), base, train={"micro_batch": 1, "batch_tokens": 600})
    assert ended(start(job))[0] == 0
    return job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Job:
    job = long_job(tmp_path_factory.mktemp("undisturbed"), base)
    code, err = ended(start(job, "--processes", "2"))
    assert code == 0, err
    return job


@pytest.mark.parametrize("parallel", ["data", "fsdp"])
def test_two_processes_train_what_one_does(tmp_path: Path, base: Path, alone: Job, parallel: str) -> None:
    job = make_job(tmp_path, base, train={"micro_batch": 1, "batch_tokens": 600, "parallel": parallel})
    code, err = ended(start(job, "--processes", "2"))
    assert code == 0, err
    assert job.story("start")[0].fields["processes"] == 2
    assert losses(job) == pytest.approx(losses(alone), rel=1e-5)
    ours, theirs = job.receipt()["metrics"], alone.receipt()["metrics"]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["base_loss"] == pytest.approx(theirs["base_loss"], rel=1e-5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_rank_dies_and_the_same_command_goes_on(
    tmp_path: Path, base: Path, undisturbed: Job, number: signal.Signals
) -> None:
    """SIGTERM goes to the supervisor, as from Kubernetes; SIGKILL to a rank, as from the OOM killer."""
    job = long_job(tmp_path, base)
    process = start(job, "--processes", "2")
    wait_for_step(job, 12)
    if number == signal.SIGTERM:
        process.terminate()
    else:
        os.kill(rank_of(process), number)
    code, err = ended(process)
    assert code == (75 if number == signal.SIGTERM else 70), err
    if number == signal.SIGKILL:
        assert "SIGKILL" in err and "rank 1" in err
        last = job.all_events()[-1]
        assert (last.kind, last.fields["exit_code"]) == ("end", 70)
        assert last.fields["message"] == "rank 1 died of SIGKILL"
    code, err = ended(start(job, "--processes", "2"))
    assert code == 0, err
    assert job.story("start")[-1].fields["resumed_from"] >= 5
    assert losses(job) == losses(undisturbed)
    assert adapter_hash(job) == adapter_hash(undisturbed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_named_and_ends_the_run(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """It is stopped, not dead: the other's collective ends by its time limit."""
    monkeypatch.setenv("PACKTRAIN_TIMEOUT", "20")
    job = long_job(tmp_path, base)
    process = start(job, "--processes", "2")
    wait_for_step(job, 6)
    os.kill(rank_of(process, rank), signal.SIGSTOP)
    code, err = ended(process)
    assert code == 69, err
    assert f"rank {1 - rank} lost rank {rank} while" in err
    last = job.all_events()[-1]
    assert (last.kind, last.fields["exit_code"]) == ("end", 69)
    monkeypatch.delenv("PACKTRAIN_TIMEOUT")
    code, err = ended(start(job, "--processes", "2", "-s", "evaluate.max_new_tokens=4"))
    assert code == 0, err


def test_a_checkpoint_of_two_goes_on_alone_and_back(tmp_path: Path, base: Path, undisturbed: Job) -> None:
    job = long_job(tmp_path, base)
    for turn, options in enumerate((["--processes", "2"], [], ["--processes", "2"])):
        process = start(job, *options)
        if turn < 2:
            wait_for_step(job, 12 * (turn + 1))
            process.terminate()
        code, err = ended(process)
        assert code == (75 if turn < 2 else 0), err
    story = [event.step for event in job.story("step")]
    assert story == list(range(1, len(story) + 1))
    assert losses(job) == pytest.approx(losses(undisturbed), rel=1e-3)


def rank_of(process: subprocess.Popen[str], rank: int = 1) -> int:
    """The pid of a rank below the supervisor."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if (
            f"RANK={rank}".encode() in environment
            and b"packtrain.cli.main" in command
            and below(folder, process.pid)
        ):
            return int(folder.name)
    raise AssertionError(f"no rank {rank}")


def below(folder: Path, ancestor: int) -> bool:
    pid = int(folder.name)
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def test_a_bad_run_file_is_told_once_and_no_rank_starts(tmp_path: Path, base: Path) -> None:
    job = make_job(tmp_path, base, train={"learning_rate": -1.0})
    code, err = ended(start(job, "--processes", "2"))
    assert code == 78
    assert err.count("train.learning_rate") == 1
    assert not job.run_dir.path.exists()
