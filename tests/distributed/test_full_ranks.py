"""Full fine-tuning in two processes: the training of one, and nothing lost, with checkpoints in parts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from standins.bucket import BucketServer, bucket_server
from test_run_ranks import ended, losses, rank_of, start, wait_for_step
from tiny import make_tiny_base
from whole_run import Job, make_job

from packtrain.storage.checksums import sha256_file

__all__ = ["bucket_server"]
pytestmark = pytest.mark.slow

PARTS = {
    *("adapter-1-of-2.safetensors", "adapter-2-of-2.safetensors"),
    *("optimizer-1-of-2.safetensors", "optimizer-2-of-2.safetensors"),
    *("state.json", "commit.json"),
}
WHOLE = {"adapter.safetensors", "optimizer.safetensors", "state.json", "commit.json"}


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tied head: one weight in two places."""
    shape = {"hidden_size": 32, "intermediate_size": 64}
    return make_tiny_base(tmp_path_factory.mktemp("base"), tied=True, shape=shape)


def full_job(folder: Path, base: Path, parallel: str, **sections: dict[str, Any]) -> Job:
    """So many steps that a signal finds it in the middle of them; each checkpoint follows an evaluation."""
    train = {"epochs": 20, "micro_batch": 1, "batch_tokens": 400, "parallel": parallel}
    adapter = {"kind": "none", "rank": 16}
    evaluate = {"every": 4, "prompts": ["What is fact 3?"]}
    chosen: dict[str, Any] = {"train": train, "checkpoint": {"every": 4}, "evaluate": evaluate}
    return make_job(folder, base, adapter=adapter, **(chosen | sections))


def model_hash(job: Job) -> str:
    return sha256_file(job.run_dir.adapter / "model.safetensors")


def files(job: Job) -> set[str]:
    """Of the newest checkpoint."""
    newest = max(job.run_dir.checkpoints.glob("step-*"), key=lambda path: int(path.name[5:]))
    return {path.name for path in newest.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> dict[str, Job]:
    jobs = {}
    for name, parallel, options in (
        ("alone", "auto", []),
        ("data", "data", ["--processes", "2"]),
        ("fsdp", "fsdp", ["--processes", "2"]),
    ):
        jobs[name] = full_job(tmp_path_factory.mktemp(name), small_base, parallel)
        code, err = ended(start(jobs[name], *options))
        assert code == 0, err
    return jobs


def test_two_processes_train_what_one_does(undisturbed: dict[str, Job]) -> None:
    alone = undisturbed["alone"]
    for name in ("data", "fsdp"):
        ours = undisturbed[name]
        # The same but for rounding, which forty steps carry along.
        assert losses(ours)[:5] == pytest.approx(losses(alone)[:5], rel=1e-5)
        assert losses(ours) == pytest.approx(losses(alone), rel=1e-2)
        assert ours.receipt()["kind"] == "none"
        assert ours.receipt()["metrics"]["reload_logit_error"] < 1e-5
    assert files(undisturbed["fsdp"]) == PARTS
    assert files(undisturbed["data"]) == files(alone) == WHOLE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("parallel", ["alone", "data", "fsdp"])
def test_cut_off_and_started_again_it_ends_with_the_same_model(
    tmp_path: Path, small_base: Path, undisturbed: dict[str, Job], parallel: str, number: signal.Signals
) -> None:
    alone = parallel == "alone"
    job = full_job(tmp_path, small_base, "auto" if alone else parallel)
    options = [] if alone else ["--processes", "2"]
    process = start(job, *options)
    wait_for_step(job, 10)
    if number == signal.SIGTERM:
        process.terminate()
    else:
        os.kill(process.pid if alone else rank_of(process), number)
    code, err = ended(process)
    assert code == (75 if number == signal.SIGTERM else -signal.SIGKILL if alone else 70), err
    code, err = ended(start(job, *options))
    assert code == 0, err
    assert job.story("start")[-1].fields["resumed_from"] >= 4
    assert losses(job) == losses(undisturbed[parallel])
    assert model_hash(job) == model_hash(undisturbed[parallel])


def test_parts_of_two_go_on_alone_and_back(
    tmp_path: Path, small_base: Path, undisturbed: dict[str, Job]
) -> None:
    job = full_job(tmp_path, small_base, "fsdp")
    for turn, (options, names) in enumerate(
        ((["--processes", "2"], PARTS), ([], WHOLE), (["--processes", "2"], PARTS))
    ):
        process = start(job, *options)
        if turn < 2:
            wait_for_step(job, 10 * (turn + 1))
            process.terminate()
        code, err = ended(process)
        assert code == (75 if turn < 2 else 0), err
        assert files(job) == names
    story = [event.step for event in job.story("step")]
    assert story == list(range(1, len(story) + 1))
    assert losses(job) == pytest.approx(losses(undisturbed["fsdp"]), rel=1e-2)


def test_a_damaged_part_is_passed_over(tmp_path: Path, small_base: Path, undisturbed: dict[str, Job]) -> None:
    part = "optimizer-2-of-2.safetensors"
    job = full_job(tmp_path, small_base, "fsdp")
    process = start(job, "--processes", "2")
    wait_for_step(job, 10)
    process.terminate()
    assert ended(process)[0] == 75
    newest, before = sorted(
        job.run_dir.checkpoints.glob("step-*"), key=lambda path: int(path.name[5:]), reverse=True
    )
    damaged = newest / part
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, err = ended(start(job, "--processes", "2"))
    assert code == 0, err
    assert f"checkpoint {newest.name} is passed over: {part} is not what was written" in err
    assert job.story("start")[-1].fields["resumed_from"] == int(before.name[5:])
    assert model_hash(job) == model_hash(undisturbed["fsdp"])


def test_parts_in_the_bucket_go_on_from_another_machine(
    tmp_path: Path,
    small_base: Path,
    undisturbed: dict[str, Job],
    bucket_server: BucketServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_server.url)
    monkeypatch.setenv("PACKTRAIN_OWNER", "the-job")
    output = {"uri": bucket_server.uri("published")}
    here = full_job(tmp_path / "here", small_base, "fsdp", output=output)
    process = start(here, "--processes", "2")
    wait_for_step(here, 10)
    process.terminate()
    assert ended(process)[0] == 75
    there = full_job(tmp_path / "there", small_base, "fsdp", output=output)
    code, err = ended(start(there, "--processes", "2"))
    assert code == 0, err
    assert there.story("start")[-1].fields["resumed_from"] >= 10
    assert model_hash(there) == model_hash(undisturbed["fsdp"])
    assert json.loads(bucket_server.data("published/receipt.json"))["kind"] == "none"
