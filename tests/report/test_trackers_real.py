"""The trackers' own libraries, each in the mode that needs nobody: what they keep is read back by them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from whole_run import Job, wait_until

PRIVATE = "Zanzibar7"
PROMPTS = f"evaluate.prompts=[{{prompt: 'Who is {PRIVATE}?', expect: '{PRIVATE}'}}]"


def installed(name: str, *, by_make: bool = False) -> pytest.MarkDecorator:
    """``by_make``: `make test` installs it, so that CI fails without it."""
    absent = find_spec(name) is None and not (by_make and os.environ.get("CI"))
    return pytest.mark.skipif(absent, reason=f"{name} is not installed")


def trained(job: Job, tracker: str, environment: dict[str, str], begun: str) -> str:
    """Two attempts of a run, the first of which is stopped when ``begun`` is there; what they said."""
    said = ""
    options = ("-s", f"report.to=[{tracker}]", "-s", PROMPTS, "-s", "train.epochs=30")
    grace = ("-s", "checkpoint.grace=120s")
    for stopped in (True, False):
        # The first is slow, so that it is stopped after the tracker has begun; neither changes the result.
        often = 1 if stopped else 1000
        every = ("-s", f"checkpoint.every={often}", "-s", f"evaluate.every={often}")
        with job.process(*options, *grace, *every, environment=environment) as process:
            if stopped:
                job.wait_for("checkpoint", 2, process)
                # The tracker has begun: one that is stopped while it begins is left behind.
                wait_until(lambda: any(job.folder.parent.glob(begun)), process)
                process.terminate()
            out, err = process.communicate(timeout=240)
            assert process.returncode == (75 if stopped else 0), err
            assert "warning" not in err and "Traceback" not in err, err
            said += out + err
    assert len({event.attempt for event in job.all_events()}) == 2
    return said


def asked(code: str, environment: dict[str, str]) -> Any:
    """What a program of its own prints, as JSON."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(ended.stdout.splitlines()[-1])


def losses(job: Job) -> dict[int, float]:
    return {event.step: event.fields["loss"] for event in job.story("step")}


@pytest.mark.slow
@installed("mlflow", by_make=True)
def test_mlflow(job: Job, tmp_path: Path) -> None:
    place = {"MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    trained(job, "mlflow", place, "mlflow/*/*/metrics/train/loss")
    code = """
import json
from mlflow.tracking import MlflowClient
client = MlflowClient()
[run] = client.search_runs([client.get_experiment_by_name("packtrain").experiment_id])
history = {tag: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, tag)]
           for tag in run.data.metrics}
print(json.dumps({"name": run.info.run_name, "status": run.info.status, "tags": run.data.tags,
                  "params": run.data.params, "history": history}))
"""
    told = asked(code, place)
    assert (told["name"], told["status"]) == ("tiny", "FINISHED")
    assert told["tags"]["packtrain.run_id"] == job.receipt()["run_id"] == told["params"]["run.id"]
    assert told["params"]["adapter.kind"] == "lora" and told["params"]["run.device"] == "cpu"
    history = told["history"]
    assert dict(history["train/loss"]) == pytest.approx(losses(job))
    [[_, final]] = history["final/loss"]
    assert final == pytest.approx(job.receipt()["metrics"]["loss"])
    assert PRIVATE not in json.dumps(told)


@pytest.mark.slow
@installed("trackio")
def test_trackio(job: Job, tmp_path: Path) -> None:
    place = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    said = trained(job, "trackio", place, "trackio/packtrain*")
    assert said.count("trackio: trackio show --project packtrain") == 2
    assert "* " not in said, "it says nothing itself"
    code = """
import json
from trackio.sqlite_storage import SQLiteStorage
[name] = SQLiteStorage.get_runs("packtrain")
print(json.dumps({"name": name, "logs": SQLiteStorage.get_logs("packtrain", name),
                  "config": SQLiteStorage.get_run_config("packtrain", name)}, default=str))
"""
    told = asked(code, place)
    assert told["name"] == f"tiny-{job.receipt()['run_id'].lower()}"
    assert told["config"]["adapter.kind"] == "lora"
    shown = {log["step"]: log["train/loss"] for log in told["logs"] if "train/loss" in log}
    assert shown == pytest.approx(losses(job))
    [final] = [log["final/loss"] for log in told["logs"] if "final/loss" in log]
    assert final == pytest.approx(job.receipt()["metrics"]["loss"])
    assert PRIVATE not in json.dumps(told)


@pytest.mark.slow
@installed("wandb")
def test_wandb(job: Job, tmp_path: Path) -> None:
    place = {"WANDB_MODE": "offline", "HOME": str(tmp_path)}
    trained(job, "wandb", place, "job/run/wandb/*/run-*.wandb")
    files = sorted((job.run_dir.path / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = job.receipt()["run_id"].lower()
    assert [path.name for path in files] == [f"run-{run_id}.wandb"] * 2, "two attempts at one run"
    first, last = (path.read_bytes() for path in files)
    assert b"train/loss" in first and b"train/loss" in last and b"final/loss" in last
    assert b"adapter.kind" in first and b"lora" in first
    for path in (job.run_dir.path / "wandb").rglob("*"):
        if path.is_file():
            assert PRIVATE.encode() not in path.read_bytes(), path


@pytest.mark.slow
@installed("wandb")
def test_wandb_without_a_login_is_one_warning(job: Job, tmp_path: Path) -> None:
    nobody = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    with job.process("-s", "report.to=[wandb]", environment=nobody) as process:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    [warning] = [line for line in err.splitlines() if "warning: Weights & Biases" in line]
    assert "the run goes on without it" in warning
