"""``packtrain train`` as a person, a script and a terminal have it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from standins.bucket import BucketServer, bucket_server  # noqa: F401
from terminal import terminal
from whole_run import ROOT, Job, base, job, make_job, packtrain  # noqa: F401

PROMPTS: dict[str, Any] = {
    "prompts": [
        {"prompt": "What is [fact] 3?", "expect": ["no such answer", "never"]},
        "Hello",
    ]
}


def test_ends_with_the_lines_that_people_know(job: Job) -> None:  # noqa: F811
    out = job.folder / "out"
    lines = job.done("-s", f"output.uri={out}").out.splitlines()
    assert re.fullmatch(r"validation loss: base \d\.\d{4}, adapter \d\.\d{4}", lines[0])
    summary = ast.literal_eval(lines[1])
    assert list(summary) == ["train_runtime", "train_loss", "epoch"]
    assert summary["epoch"] == 3.0
    assert lines[2:] == [f"Successfully uploaded model to {out}", "Fine-tuning and upload complete!"]


def test_without_an_output_the_adapter_stays_in_the_run(job: Job) -> None:  # noqa: F811
    lines = job.done().out.splitlines()
    assert lines[-2:] == [f"The adapter is in {job.run_dir.adapter}", "Fine-tuning complete!"]


def test_to_a_bucket(job: Job, bucket_server: BucketServer) -> None:  # noqa: F811
    uri = bucket_server.uri("final_model")
    lines = job.done("-s", f"output.uri={uri}").out.splitlines()
    assert lines[-2:] == [f"Successfully uploaded model to {uri}", "Fine-tuning and GCS upload complete!"]
    assert bucket_server.data("final_model/receipt.json") == job.run_dir.receipt_file.read_bytes()


def test_stdout_is_the_result_and_stderr_the_way(job: Job) -> None:  # noqa: F811
    ended = job.done()
    assert "loss" not in re.sub(r"validation loss: base|train_loss", "", ended.out)
    for told in ("reading the data", "loading", "validation loss of the base", "checkpoint saved"):
        assert told in ended.err
    assert "evaluating" not in ended.err  # it took no time: the line with the result is enough


def test_the_runs_folder_is_named_after_the_run(
    job: Job,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(job.folder)
    ended = packtrain("train", "run.yaml", "-s", "output.uri=published")
    assert ended.code == 0, ended.err
    assert (job.folder / "runs" / "tiny" / "receipt.json").exists()
    assert (job.folder / "published" / "receipt.json").exists()


def test_json_is_all_of_stdout(tmp_path: Path, base: Path) -> None:  # noqa: F811
    job = make_job(tmp_path / "job", base, evaluate=PROMPTS)  # noqa: F811
    told = json.loads(job.done("--json").out)
    assert told["receipt"] == job.receipt()
    assert (told["published"], told["already_finished"]) == (None, False)
    assert told["run_dir"] == str(job.run_dir.path)
    assert [answer["prompt"] for answer in told["answers"]] == ["What is [fact] 3?", "Hello"]
    assert [answer["right_after"] for answer in told["answers"]] == [False, None]
    again = json.loads(job.done("--json").out)
    assert again["already_finished"] is True
    assert again["receipt"] == told["receipt"]


def test_the_answers_before_and_after(tmp_path: Path, base: Path) -> None:  # noqa: F811
    job = make_job(tmp_path / "job", base, evaluate=PROMPTS)  # noqa: F811
    out = job.done().out
    assert out.index("prompt:  What is [fact] 3?\nbefore:  ✗ ") < out.index("validation loss")
    assert "right before: 0 of 1 (0%), after: 0 of 1 (0%)" in out
    assert job.receipt()["metrics"]["answers"] == {"right_before": 0, "right": 0, "asked": 1}


def test_a_failure_has_nothing_on_stdout(job: Job) -> None:  # noqa: F811
    ended = job.train("-s", "train.learning_rat=1")
    assert (ended.code, ended.out) == (78, "")
    assert "did you mean train.learning_rate?" in ended.err


@pytest.mark.slow
def test_on_a_terminal(tmp_path: Path, base: Path) -> None:  # noqa: F811
    """All of it in a process that has a terminal: bars come and go, the results stay."""
    job = make_job(tmp_path / "job", base, evaluate=PROMPTS)  # noqa: F811
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "packtrain.cli.main", *job.arguments()]
    with terminal() as screen:
        code = subprocess.run(
            command, env=environment, stdin=screen.end, stdout=screen.end, stderr=screen.end, check=False
        ).returncode
    shown = screen.plain
    assert code == 0, shown
    assert "Traceback" not in shown
    assert "training 6/6" in shown
    assert "What is [fact] 3?" in shown
    assert shown.rstrip().endswith("Fine-tuning complete!")


def test_one_process_on_each_of_several_machines_is_for_the_supervisor(
    job: Job,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PACKTRAIN_NODES", "2")
    ended = job.train()
    assert (ended.code, ended.out) == (2, "")
    assert "has to say which of the 2 nodes this one is" in ended.err
    assert not job.run_dir.path.exists()
