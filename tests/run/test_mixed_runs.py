"""Whole runs on a mixture with weighted rows: what is told of it, and that it goes on exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from mixed import mixed_job
from whole_run import Job, packtrain


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Job:
    job = mixed_job(tmp_path_factory.mktemp("mixed"), base)
    job.done()
    return job


def test_it_is_told_what_each_source_has(finished: Job) -> None:
    [event] = finished.story("data")
    some, other = event.fields["mixture"]
    assert (some["source"].rpartition("/")[2], some["weight"]) == ("some.jsonl", 1.5)
    assert some["rows"] + some["validation_rows"] == 16
    assert other["epoch_rows"] == round(0.4 * other["rows"])
    assert some["share"] + other["share"] == pytest.approx(1.0, abs=1e-3)
    assert event.fields["train"]["rows"] == some["epoch_rows"] + other["epoch_rows"]
    assert event.fields["train"]["weights"]["max"] == 2.0
    assert finished.story("start")[0].fields["rows"] == some["rows"] + other["rows"]
    assert finished.receipt()["data"]["mixture"] == event.fields["mixture"]
    report = (finished.run_dir.path / "report.html").read_text()
    assert "some.jsonl" in report and f"{some['share']:.1%}" in report
    card = (finished.run_dir.adapter / "README.md").read_text()
    assert "train[0], weight 1.5" in card


def test_epochs_see_other_rows(finished: Job) -> None:
    steps = finished.story("step")
    epochs = [event.fields["epoch"] for event in steps]
    each = len(steps) // 3
    assert epochs[each - 1] == 1.0
    tokens = [sum(event.fields["tokens"] for event in steps[n * each : (n + 1) * each]) for n in range(3)]
    assert len(set(tokens)) > 1


def test_it_goes_on_from_a_checkpoint_to_the_same_bit(tmp_path: Path, base: Path, finished: Job) -> None:
    job = mixed_job(tmp_path / "job", base)
    job.done()
    assert job.weights() == finished.weights()
    steps = len(job.story("step"))
    shutil.rmtree(job.run_dir.adapter)
    job.run_dir.receipt_file.unlink()
    checkpoints = sorted(job.run_dir.checkpoints.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    for path in checkpoints[1:]:
        shutil.rmtree(path)
    ended = job.done()
    resumed = int(checkpoints[0].name.split("-")[1])
    assert 0 < resumed < steps
    assert f"going on after step {resumed}" in ended.err
    assert job.weights() == finished.weights()
    assert job.losses() == finished.losses()


def test_another_weight_is_another_run(tmp_path: Path, base: Path) -> None:
    job = mixed_job(tmp_path / "job", base, max_steps=1)
    job.done()
    text = job.run_file.read_text()
    job.run_file.write_text(text.replace("weight: 0.4", "weight: 0.5"))
    refused = job.train()
    assert refused.code == 78
    assert "data.train" in refused.err
    job.run_file.write_text(text)
    assert "nothing was done" in job.done().out


def test_the_config_that_was_kept_is_a_run_file(finished: Job) -> None:
    kept = yaml.safe_load(finished.run_dir.config_file.read_text())["data"]["train"]
    assert [item["weight"] for item in kept] == [1.5, 0.4]
    ended = packtrain("data", str(finished.run_dir.config_file), "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["mixture"] == finished.story("data")[0].fields["mixture"]
