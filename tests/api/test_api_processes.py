"""A run in several processes that a script starts: its result, its progress, its failures, its stops."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_run import ROOT, Job, make_job, wait_until

import packtrain
from packtrain.api.processes import _ended
from packtrain.errors import BugError, ConfigError, PreemptedError, UsageError
from packtrain.rundir import history
from packtrain.train.progress import PlainProgress


@pytest.fixture
def job(tmp_path: Path, base: Path) -> Job:
    asked = [{"prompt": "What is fact 1?", "expect": "7"}]
    return make_job(tmp_path / "job", base, evaluate={"prompts": asked})


@pytest.mark.slow
def test_two_processes_do_what_one_does(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("packtrain.train.progress.make_progress", lambda: PlainProgress(shown, 0.0))
    trained = packtrain.train(job.run_file, run_dir=job.run_dir.path, processes=2)
    assert not trained.already_finished
    assert job.story("start")[0].fields["processes"] == 2
    assert len(trained.answers) == 1
    lines = shown.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines if line.startswith("step") and "loss " in line][:1]
    assert len([line for line in lines if line.startswith("step 6/6")]) == 1
    assert len(set(lines)) == len(lines)

    one = packtrain.train(job.run_file, run_dir=job.folder / "one", progress=False)
    assert trained.metrics["loss"] == pytest.approx(one.metrics["loss"], abs=1e-4)
    again = packtrain.train(job.run_file, run_dir=job.run_dir.path, progress=False)
    assert (again.already_finished, again.receipt, again.answers) == (True, trained.receipt, trained.answers)

    with pytest.raises(ConfigError, match=r"train\.epochs: 3\.0 -> 2\.0") as raised:
        packtrain.train(
            job.run_file, {"train.epochs": 2}, run_dir=job.run_dir.path, processes=2, progress=False
        )
    assert raised.value.hint is not None and "--new" in raised.value.hint


SCRIPT = """
import sys
import packtrain
try:
    packtrain.train(sys.argv[1], run_dir=sys.argv[2], processes=2, progress=False)
except packtrain.PacktrainError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_of_the_script_stops_the_run(tmp_path: Path, base: Path, number: signal.Signals) -> None:
    """And its death does: nothing goes on that nobody waits for."""
    job = make_job(tmp_path / "job", base, train={"epochs": 400}, evaluate={"every": 100})
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(job.run_file), str(job.run_dir.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: any(event.kind == "step" for event in job.all_events()), script)
        script.send_signal(number)
        out, err = script.communicate(timeout=60)
    finally:
        script.kill()
    end = time.monotonic() + 60
    while (last := history(job.run_dir.events_file)[-1]).kind != "preempted":
        assert time.monotonic() < end, last
        time.sleep(0.05)
    if number == signal.SIGINT:
        assert script.returncode == PreemptedError.exit_code, err
        assert "PreemptedError stopped by" in out


@pytest.mark.parametrize(
    ("code", "told", "kind", "message"),
    [
        (78, "20 rows\nerror: a: b\nerror: c: d\nhint: e\n", ConfigError, "a: b\nc: d"),
        (-9, "some\n", BugError, "the run's process died of SIGKILL"),
        (1, "", BugError, "the run's process ended with 1"),
    ],
)
def test_what_was_told_is_raised(
    tmp_path: Path, code: int, told: str, kind: type[packtrain.PacktrainError], message: str
) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    out.touch()
    err.write_text(told)
    with pytest.raises(kind) as raised:
        _ended(code, out, err)
    assert str(raised.value) == message
    with pytest.raises(KeyboardInterrupt):
        _ended(130, out, err)


def test_no_processes_are_refused(job: Job) -> None:
    with pytest.raises(UsageError, match="processes is 0"):
        packtrain.train(job.run_file, processes=0)
