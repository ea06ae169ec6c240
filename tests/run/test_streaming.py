"""Whole runs on data that is streamed: what they leave, where they go on, and what ends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from standins.bucket import BucketServer, Fault, bucket_server
from whole_run import Ended, Job, facts, make_job, packtrain, write_rows

from packtrain.data import ranged
from packtrain.data import stream as module
from packtrain.run import streaming
from packtrain.storage.retry import RetryPolicy

__all__ = ["bucket_server"]

STEPS = 12


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    monkeypatch.setattr(ranged, "BLOCK", 1024)


def streamed(folder: Path, base: Path, rows: list[dict[str, Any]] | None = None, **data: Any) -> Job:
    job = make_job(
        folder,
        base,
        rows=facts(60) if rows is None else rows,
        data={"streaming": True, **data},
        train={"max_steps": STEPS},
        checkpoint={"every": 1},
    )
    job.run_file.write_text(job.run_file.read_text().replace("  epochs: 3\n", ""))
    return job


@pytest.fixture
def job(tmp_path: Path, base: Path) -> Job:
    return streamed(tmp_path / "job", base)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Job:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 8)
        made = streamed(tmp_path_factory.mktemp("whole"), base)
        made.done()
    return made


def failed(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    [error] = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in words), error


def same(one: Job, other: Job) -> None:
    assert one.losses() == other.losses()
    assert one.weights() == other.weights()
    assert [event.fields["loss"] for event in one.story("eval")] == [
        event.fields["loss"] for event in other.story("eval")
    ]


def test_a_run_and_what_its_receipt_and_events_say(whole: Job) -> None:
    receipt = whole.receipt()
    trained = receipt["data"]["train"]
    assert trained["tokens"] == receipt["tokens"] == sum(e.fields["tokens"] for e in whole.story("step"))
    assert trained["supervised_tokens"] == sum(e.fields["supervised_tokens"] for e in whole.story("step"))
    assert trained["rows"] > 51
    assert len(trained["fingerprint"]) == 64
    assert receipt["data"]["validation"]["rows"] == 9
    [file] = receipt["data"]["sources"]["train"]["files"]
    assert file.keys() == {"name", "bytes", "identity"}
    assert receipt["data"]["scope"].startswith("data.streaming: ")
    assert receipt["metrics"]["loss"] < receipt["metrics"]["base_loss"]
    epochs = [event.fields["epoch"] for event in whole.story("step")]
    assert epochs == sorted(epochs)
    assert receipt["metrics"]["epoch"] == epochs[-1] > 1
    assert whole.story("start")[0].fields["rows"] is None
    told = whole.story("data")
    assert [event.step for event in told] == [0, STEPS]
    assert told[-1].fields["train"] == trained
    size = (whole.folder / "train.jsonl").stat().st_size
    assert f"train.jsonl`, {size:,} bytes" in (whole.run_dir.adapter / "README.md").read_text()
    assert (whole.run_dir.path / "report.html").exists()


def test_the_same_seed_repeats_it_from_another_place(whole: Job, tmp_path: Path, base: Path) -> None:
    other = streamed(tmp_path / "other", base)
    other.done()
    same(other, whole)
    assert other.receipt()["data"]["train"] == whole.receipt()["data"]["train"]


def test_a_source_that_breaks_off_ends_it_saved_and_it_goes_on_from_there(
    bucket_server: BucketServer, whole: Job, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to one try, the bucket fails in the midst; then it is back."""
    monkeypatch.setattr("packtrain.storage.gcs.RetryPolicy", lambda: RetryPolicy(attempts=1))
    bucket_server.put("d/train.jsonl", (job.folder / "train.jsonl").read_bytes())
    words = ["-s", f"data.train={bucket_server.uri('d/train.jsonl')}"]
    # Counted: what the look at the first rows, the validation rows and the first windows take goes well.
    bucket_server.faults.add("GET", "alt=media", Fault(status=503), times=1, skip=20)
    failed(job.train(*words), 69, "d/train.jsonl: Google Cloud Storage does not answer")
    done = len(job.story("step"))
    assert 0 < done < STEPS
    assert (job.run_dir.checkpoints / f"step-{done}").is_dir()
    ended = job.done(*words)
    assert f"going on after step {done}" in ended.err
    same(job, whole)
    assert job.receipt()["data"]["train"] == whole.receipt()["data"]["train"]


def test_rows_with_names_of_their_own_and_weights(
    bucket_server: BucketServer, whole: Job, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names change nothing; weights do, and a run that was broken off goes on with them."""
    columns = {"instruction": "q", "response": "a", "context": "c"}
    renamed = [{columns[key]: value for key, value in row.items()} for row in facts(60)]
    plain = streamed(tmp_path / "plain", base, renamed, columns=columns)
    plain.done()
    same(plain, whole)

    rows = [row | {"trust": index % 4} for index, row in enumerate(renamed)]
    settings = {"columns": columns, "weight_column": "trust", "system": "Be brief."}
    weighted = streamed(tmp_path / "weighted", base, rows, **settings)
    weighted.done()
    assert weighted.losses() != whole.losses()
    assert weighted.receipt()["data"]["findings"]["weightless_rows"] > 0

    monkeypatch.setattr("packtrain.storage.gcs.RetryPolicy", lambda: RetryPolicy(attempts=1))
    broken = streamed(tmp_path / "broken", base, rows, **settings)
    bucket_server.put("d/train.jsonl", (broken.folder / "train.jsonl").read_bytes())
    words = ["-s", f"data.train={bucket_server.uri('d/train.jsonl')}"]
    bucket_server.faults.add("GET", "alt=media", Fault(status=503), times=1, skip=26)
    failed(broken.train(*words), 69, "d/train.jsonl: Google Cloud Storage does not answer")
    assert 0 < len(broken.story("step")) < STEPS
    broken.done(*words)
    same(broken, weighted)
    assert broken.receipt()["data"]["train"] == weighted.receipt()["data"]["train"]


def test_a_bad_row_ends_it_when_it_is_reached_and_saves(tmp_path: Path, base: Path) -> None:
    job = streamed(tmp_path / "job", base, validation=0.0)
    with (job.folder / "train.jsonl").open("a") as file:
        file.write("{broken\n")
    failed(job.train(), 65, "train.jsonl:61: is not valid JSON")
    done = len(job.story("step"))
    assert 0 < done < STEPS
    assert (job.run_dir.checkpoints / f"step-{done}").is_dir()
    failed(job.train(), 65, "train.jsonl:61: is not valid JSON")
    skipped = streamed(tmp_path / "skipped", base, validation=0.0, on_bad_row="skip")
    with (skipped.folder / "train.jsonl").open("a") as file:
        file.write("{broken\n")
    skipped.done()
    assert skipped.receipt()["data"]["findings"]["bad_rows"] == 1


def test_data_that_changed_between_stop_and_resume_is_named(tmp_path: Path, base: Path) -> None:
    job = streamed(tmp_path / "job", base, validation=0.0)
    with (job.folder / "train.jsonl").open("a") as file:
        file.write("{broken\n")
    failed(job.train(), 65)
    write_rows(job.folder / "train.jsonl", facts(61))
    failed(job.train(), 78, "train.jsonl: its content is another than when the run was stopped")
    job.done("--new")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.max_steps=null", "train.max_steps=null: is needed with data.streaming: true"),
        ("train.epochs=2", "train.epochs=2: is not counted with data.streaming: true"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(job: Job, change: str, words: str) -> None:
    failed(job.train("-s", change), 78, words)
    assert not job.run_dir.path.exists()


def test_packtrain_data_shows_the_first_rows_and_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job.folder)
    ended = packtrain("data", str(job.run_file), "-s", "data.limit=20")
    assert ended.code == 0, ended.err
    assert "scope        data.streaming: the first 17 rows" in ended.out
    shown = packtrain("data", str(job.run_file), "--preview", "2")
    assert shown.out.count("--- train.jsonl:") == 2
    told = json.loads(packtrain("data", str(job.run_file), "--json").out)
    assert told["train"]["rows"] == 51
    assert told["scope"]


def test_the_adapter_is_evaluated_on_the_runs_own_validation_rows(whole: Job) -> None:
    ended = packtrain("eval", str(whole.run_dir.path), "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["rows"] == 9


def test_large_local_data_that_is_not_streamed_is_told_of(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LARGE", 100)
    told = make_job(tmp_path / "job", base).done()
    assert "data.streaming: true begins at once" in told.err
    monkeypatch.setattr(streaming, "LARGE", 10**6)
    assert "begins at once" not in make_job(tmp_path / "small", base).done().err
