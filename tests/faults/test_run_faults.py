"""What ends a run badly: gates, NaN, a full disk, a bucket that refuses. One sentence each, and its code."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from standins.bucket import BucketServer, Fault
from tiny import make_tiny_base
from whole_run import SEVEN, Ended, Job, facts, make_job, packtrain, write_rows


def failed(ended: Ended, code: int, *words: str) -> None:
    """One sentence, perhaps a hint, and the code."""
    assert ended.code == code, ended.err
    lines = ended.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert all(word in errors[0] for word in words), errors[0]
    assert lines[-1].startswith(("error: ", "hint: "))


class TestGates:
    @pytest.mark.parametrize(
        ("fail_if", "words"),
        [
            ({"loss_above": 0.5}, ["validation loss 5.", "is above 0.5"]),
            ({"answers_below": 0.5}, ["0 of 1 prompts", "at least 50%"]),
        ],
    )
    def test_what_is_not_as_good_as_asked_is_not_published(
        self, tmp_path: Path, base: Path, fail_if: dict[str, Any], words: list[str]
    ) -> None:
        prompts = [{"prompt": "What is fact 3?", "expect": "no such answer"}]
        out = tmp_path / "out"
        job = make_job(
            tmp_path / "job",
            base,
            evaluate={"fail_if": fail_if, "prompts": prompts},
            output={"uri": str(out)},
        )
        ended = job.train()
        failed(ended, 76, "evaluate.fail_if", *words)
        assert "What is fact 3?" in ended.out
        assert "right before: 0 of 1 (0%), after: 0 of 1 (0%)" in ended.out
        assert not out.exists()
        assert not job.run_dir.receipt_file.exists()
        assert {path.name for path in job.run_dir.adapter.iterdir()} >= SEVEN
        assert f"the adapter is in {job.run_dir.adapter}, without a receipt and unpublished" in ended.err
        last = job.story()[-1].fields
        assert (last["outcome"], last["exit_code"]) == ("failed", 76)
        steps = len(job.story("step"))
        relaxed = job.done(
            "-s", "evaluate.fail_if.loss_above=null", "-s", "evaluate.fail_if.answers_below=null"
        )
        assert "Successfully uploaded" in relaxed.out
        assert len(job.story("step")) == steps

    def test_an_adapter_worse_than_the_base(self, job: Job) -> None:
        # What it learns of English makes it worse at Korean.
        write_rows(job.folder / "ko.jsonl", [row | {"response": "가나다라" * 9} for row in facts(4, 50)])
        change = ("data.validation=ko.jsonl", "train.epochs=30", "evaluate.fail_if.worse_than_base=true")
        ended = job.train(*(word for pair in change for word in ("-s", pair)))
        failed(ended, 76, "the adapter's validation loss", "is above the base's")

    def test_good_enough_passes(self, job: Job) -> None:
        job.done("-s", "evaluate.fail_if.loss_above=50.0", "-s", "evaluate.fail_if.worse_than_base=true")
        assert job.run_dir.receipt_file.exists()


class TestDiverged:
    @pytest.fixture
    def job(self, tmp_path: Path) -> Job:
        """On a base with an infinite weight for one byte, ``#``, which only one row has."""
        poisoned = make_tiny_base(tmp_path / "base")
        tensors = load_file(poisoned / "model.safetensors")
        tensors["model.embed_tokens.weight"][ord("#") - ord("!")] = float("inf")
        save_file(tensors, poisoned / "model.safetensors", {"format": "pt"})
        rows = facts(24)
        rows[17]["instruction"] += " #"
        # The poison is in the 18th row; a first check runs on the shortest two.
        job = make_job(tmp_path / "job", poisoned, rows=rows, data={"validation": "held-out.jsonl"})
        write_rows(job.folder / "held-out.jsonl", facts(4, first=100))
        return job

    def test_nan_ends_with_the_step_and_the_rows(self, job: Job) -> None:
        failed(job.train(), 79, "the loss is not finite", "train.jsonl:18", "step ")
        assert (job.story()[-1].fields["exit_code"], job.story()[-1].kind) == (79, "end")
        assert not job.run_dir.receipt_file.exists()
        assert all(math.isfinite(loss) for loss in job.losses())

    def test_nan_in_validation(self, job: Job) -> None:
        rows = [row | {"instruction": row["instruction"] + " #"} for row in facts(4, first=100)]
        write_rows(job.folder / "held-out.jsonl", rows)
        failed(job.train(), 79, "step 0: the validation loss is not finite (nan)")

    def test_it_never_becomes_a_success_when_run_again(self, job: Job) -> None:
        assert [job.train().code for _ in range(2)] == [79, 79]


def mount(folder: Path, *options: str) -> None:
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mount: a file system cannot be mounted here ({mounted.stderr.strip()})")


class TestFullDisk:
    @pytest.fixture
    def job(self, tmp_path: Path, base: Path) -> Iterator[Job]:
        job = make_job(tmp_path / "job", base)
        job.run_dir.path.mkdir()
        mount(job.run_dir.path, "-o", "size=2m")
        yield job
        subprocess.run(["umount", str(job.run_dir.path)], check=True)

    @pytest.mark.parametrize("room", [0, 4, 8, 16, 40, 100, 130, 200, 260, 300, 320])
    def test_it_says_so_and_goes_on_when_there_is_room(
        self, job: Job, tmp_path: Path, base: Path, room: int
    ) -> None:
        """``room``: KiB that are left when the run begins. A whole run takes some 330."""
        filler = job.run_dir.path / "filler"
        with filler.open("wb") as file:
            file.write(b"x" * (2048 - room) * 1024)
        ended = job.train()
        failed(ended, 74)
        assert "No space left on device" in ended.err or "disk" in ended.err
        filler.unlink()
        job.done()
        whole = make_job(tmp_path / "whole", base)
        whole.done()
        assert job.weights() == whole.weights()
        assert job.losses() == whole.losses()


@pytest.mark.parametrize("begun", [False, True])
def test_a_disk_that_cannot_be_written(job: Job, begun: bool) -> None:
    if begun:
        job.done()
    job.run_dir.path.mkdir(exist_ok=True)
    content = {path: path.read_bytes() for path in job.run_dir.path.glob("*") if path.is_file()}
    mount(job.run_dir.path)
    try:
        for path, data in content.items():
            path.write_bytes(data)
        subprocess.run(["mount", "-o", "remount,ro", str(job.run_dir.path)], check=True)
        failed(job.train(), 77, str(job.run_dir.path), "Read-only file system")
    finally:
        subprocess.run(["umount", str(job.run_dir.path)], check=True)


class TestInside:
    """Errors of torch, Python and our own making, where training would be."""

    @pytest.fixture
    def instead(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
        def set_instead(action: Callable[[], object]) -> None:
            monkeypatch.setattr("packtrain.run.training.make_adapter", lambda session: action())

        return set_instead

    @pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 60)])
    def test_out_of_memory(
        self,
        job: Job,
        instead: Callable[[Callable[[], object]], None],
        allocate: Callable[[], object],
    ) -> None:
        instead(allocate)
        failed(job.train(), 71, "out of memory")
        assert job.story()[-1].fields["exit_code"] == 71

    def test_a_bug_has_a_stack_trace_and_leaves_the_run_free(
        self, job: Job, instead: Callable[[Callable[[], object]], None]
    ) -> None:
        instead(lambda: int("no number"))
        ended = packtrain(*job.arguments())
        assert ended.code == 70
        assert "Traceback" in ended.err
        assert "please report it" in ended.err
        assert (job.story()[-1].kind, job.story()[-1].fields["exit_code"]) == ("end", 70)
        assert not job.run_dir.lock_file.exists()


class TestBucket:
    def test_one_that_refuses(self, job: Job, bucket_server: BucketServer) -> None:
        uri = ("-s", f"output.uri={bucket_server.uri('final_model')}")
        bucket_server.faults.add("*", ".", Fault(status=403), times=None)
        failed(job.train(*uri), 77, bucket_server.uri())
        bucket_server.faults.clear()
        assert "Fine-tuning and GCS upload complete!" in job.done(*uri).out

    def test_one_that_is_not_there(self, job: Job, bucket_server: BucketServer) -> None:
        ended = job.train("-s", "output.uri=gs://no-such-bucket/final_model")
        assert ended.code in (74, 77, 78)
        failed(ended, ended.code, "no-such-bucket")

    def test_a_prefix_of_another_run(self, tmp_path: Path, base: Path, bucket_server: BucketServer) -> None:
        output = {"uri": bucket_server.uri("final_model")}
        make_job(tmp_path / "first", base, output=output).done()
        before = bucket_server.snapshot()
        second = make_job(tmp_path / "second", base, output=output)
        text = (second.folder / "run.yaml").read_text()
        (second.folder / "run.yaml").write_text(text.replace("name: tiny", "name: another"))
        failed(second.train(), 73, "holds the finished adapter of run")
        theirs = {name for name in bucket_server.snapshot() if not name.startswith("packtrain/another/")}
        assert theirs == set(before)

    def test_a_taken_place_is_told_before_training(
        self, tmp_path: Path, base: Path, bucket_server: BucketServer
    ) -> None:
        for uri in (bucket_server.uri("final_model"), str(tmp_path / "out")):
            folder = tmp_path / uri.rpartition("/")[2]
            job = make_job(folder.with_suffix(".job"), base, output={"uri": uri})
            job.done()
            before = job.run_dir.identity()
            failed(job.train("--new"), 73, uri, "holds the finished adapter of run")
            assert job.run_dir.identity() == before, "the old run is not moved aside for nothing"
            other = job.train("-s", "name=other", "--run-dir", str(folder.with_suffix(".other")))
            failed(other, 73, uri, "holds the finished adapter of run")
            assert "reading the data" not in other.err

    def test_the_same_run_on_another_machine(
        self, tmp_path: Path, base: Path, bucket_server: BucketServer
    ) -> None:
        output = {"uri": bucket_server.uri("final_model")}
        make_job(tmp_path / "first", base, output=output).done()
        second = make_job(tmp_path / "second", base, output=output)
        ended = second.train()
        assert ended.code == 0, ended.err
        assert "is finished; nothing was done" in ended.out


class TestStateInAnotherFolder:
    """``output.run_uri`` is a folder, such as one that several machines share."""

    def test_another_machine_goes_on_from_it(self, tmp_path: Path, base: Path) -> None:
        whole = make_job(tmp_path / "whole", base)
        whole.done()
        shared = tmp_path / "shared"
        job = make_job(tmp_path / "job", base, output={"run_uri": str(shared)})
        stopped = ("-s", "evaluate.fail_if.loss_above=0.001")
        failed(job.train(*stopped), 76)
        found = {path.name for path in shared.iterdir() if not path.name.startswith(".")}
        assert found == {"run.json", "config.yaml", "events", "checkpoints", "report.html", "tensorboard"}
        shutil.rmtree(job.run_dir.path)
        job.done()
        assert job.weights() == whole.weights()
        assert job.losses() == whole.losses()
        assert job.story("start")[-1].fields["resumed_from"] == 6

    def test_the_runs_own_folder_needs_no_copy(self, job: Job) -> None:
        job.done("-s", f"output.run_uri={job.run_dir.path}")
        assert not (job.run_dir.path / "events").exists()


def test_a_folder_that_is_not_a_run(job: Job) -> None:
    job.run_dir.adapter.mkdir(parents=True)
    failed(job.train(), 73, "has adapter but no run.json")


def test_a_run_folder_that_is_a_file(job: Job) -> None:
    job.run_dir.path.write_text("")
    failed(job.train(), 74, str(job.run_dir.path))


def test_an_identity_that_cannot_be_read(job: Job) -> None:
    job.run_dir.path.mkdir()
    job.run_dir.identity_file.write_text("{")
    failed(job.train(), 78, "is not a run's identity")


def test_no_training_rows_at_all(job: Job) -> None:
    write_rows(job.folder / "train.jsonl", [])
    failed(job.train(), 65, "train.jsonl")


def test_a_base_whose_weights_are_cut_off(tmp_path: Path) -> None:
    cut = make_tiny_base(tmp_path / "base")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    job = make_job(tmp_path / "job", cut)
    ended = job.train()
    assert ended.code in (74, 78)
    failed(ended, ended.code, "model.safetensors")
