"""``packtrain export`` of runs of all kinds: found by folder, run file and bucket; written, checked, told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from standins.bucket import BucketServer, bucket_server  # noqa: F401  (the fixture)
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM
from whole_run import Job, make_job, packtrain


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"), dtype="bfloat16")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Job:
    job = make_job(tmp_path_factory.mktemp("job"), base)
    job.done()
    return job


def exported(*arguments: str) -> dict[str, Any]:
    ended = packtrain("export", *arguments, "--json")
    assert ended.code == 0, ended.err
    told: dict[str, Any] = json.loads(ended.out)
    return told


def test_a_runs_folder(done: Job, tmp_path: Path) -> None:
    told = exported(str(done.run_dir.path), "--merged", str(tmp_path / "merged"))["merged"]
    assert told["folder"] == str(tmp_path / "merged")
    assert told["logit_error"] <= told["tolerance"] == 0.05
    assert (
        f"with the adapter of run `{done.receipt()['run_id']}` merged"
        in (tmp_path / "merged" / "README.md").read_text()
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16


def test_a_run_file(done: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(done.run_dir.path)
    ended = packtrain("export", str(done.run_file), "--merged", "merged", "--vllm")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0] == "vLLM serves this adapter as it is: --enable-lora --max-lora-rank 8"
    assert lines[1].startswith(f"The merged model is in {tmp_path / 'merged'} (0.00 GB). Its logits differ")
    assert "merging model.safetensors (1 of 1)" in ended.err


def test_out_of_a_bucket(
    done: Job,
    tmp_path: Path,
    bucket_server: BucketServer,  # noqa: F811  (the fixture)
) -> None:
    for path in (*done.run_dir.adapter.iterdir(), done.run_dir.receipt_file):
        bucket_server.put(f"final_model/{path.name}", path.read_bytes())
    told = exported(bucket_server.uri("final_model"), "--merged", str(tmp_path / "merged"))
    assert told["merged"]["logit_error"] <= told["merged"]["tolerance"]


@pytest.mark.parametrize("kind", ["dora", "qlora"])
def test_other_kinds(base: Path, tmp_path: Path, kind: str) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    job = make_job(tmp_path / "job", base, adapter={"kind": kind})
    job.done()
    told = exported(str(job.run_dir.path), "--merged", str(tmp_path / "merged"))["merged"]
    assert told["logit_error"] <= told["tolerance"]
    if kind == "qlora":
        # NF4 keeps about a tenth of a weight's size.
        assert 0.03 < told["base_drift"] < 0.2
    else:
        assert told["base_drift"] is None
        refused = packtrain("export", str(job.run_dir.path), "--vllm")
        assert refused.code == 76
        assert "vLLM would refuse this adapter: use_dora" in refused.err
        assert "--merged DIR makes a whole model of it" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["{run}"], 2, "nothing to export to"),
        (["{run}", "--merged", "{run}"], 73, "is there already"),
        (["{run}", "--gguf", "x.gguf"], 78, "no byte-level BPE"),
        (["{run}", "--gguf", "x.gguf", "--type", "q4_0"], 2, "q4_0"),
        (["{run}/nowhere", "--vllm"], 78, "is not there"),
        (["{run}", "--merged", "{run}/x", "--base", "/nowhere"], 78, "/nowhere is not there"),
        (["{run}", "--vllm", "--max-lora-rank", "2"], 76, "rank 4 is over --max-lora-rank 2"),
    ],
)
def test_what_cannot_be_exported(
    done: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = packtrain("export", *(each.format(run=done.run_dir.path) for each in arguments))
    assert ended.code == code, ended.err
    assert sentence in ended.err
    assert list(tmp_path.iterdir()) == []
