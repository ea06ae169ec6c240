"""A run as it is in a pod: the supervisor on a run file whose output is in a bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from standins.bucket import BucketServer, Fault
from whole_run import ROOT, Job, make_job, wait_until

from packtrain.errors import UsageError
from packtrain.plan.machines import machine, price_per_hour
from packtrain.run.budget import read_entries, total_usd
from packtrain.run.log_mirror import read_logs
from packtrain.run.pod import given_run_id, image, state_uri
from packtrain.rundir import RunDir, history
from packtrain.runfile import load
from packtrain.storage import open_storage

RUN_ID = "01KATEST00000000000000000A"
IMAGE = f"example.com/packtrain/trainer@sha256:{'a' * 64}"
SUPERVISOR = (sys.executable, "-m", "packtrain.run.supervisor")
MACHINE = "g2-standard-4"


def pod(job: Job, folder: Path, *overrides: str, processes: int = 1, **more: str) -> subprocess.Popen[str]:
    """One container's life; ``folder`` is its own disk."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PACKTRAIN_")}
    variables: Mapping[str, str] = {
        "PYTHONPATH": str(ROOT / "src"),
        "PACKTRAIN_RUN_ID": RUN_ID,
        "PACKTRAIN_IMAGE": IMAGE,
        "PACKTRAIN_OWNER": "uid-of-the-job",
        "HF_TOKEN": "hf_not_to_be_seen",
    }
    options = ["--run-dir", str(folder), *(part for each in overrides for part in ("-s", each))]
    return subprocess.Popen(
        [*SUPERVISOR, f"--processes={processes}", "--", "train", str(job.run_file), *options],
        env={**kept, **variables, **more},
        cwd=job.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def cluster_job(folder: Path, base: Path, server: BucketServer, **sections: dict[str, Any]) -> Job:
    cluster = {"machine": MACHINE, "capacity": "on-demand"} | sections.pop("cluster", {})
    sections |= {"cluster": cluster, "output": {"uri": server.uri("final_model")}}
    return make_job(folder, base, rows=None, **sections)


def amount(seconds: float) -> float:
    """What so much time of the machine costs, in USD."""
    price = price_per_hour(machine(MACHINE), "on-demand").usd
    assert price is not None
    return seconds * price / 3600


def usd(seconds: float) -> str:
    return f"{amount(seconds):.6f} USD"


class TestEnvironment:
    def test_outside_of_a_pod_there_is_nothing(self, tmp_path: Path, base: Path) -> None:
        config = load(make_job(tmp_path, base, output={"uri": "gs://b-ucket/out"}).run_file).config
        assert (given_run_id({}), given_run_id({"PACKTRAIN_RUN_ID": ""}), image({})) == (None, None, None)
        assert state_uri(config, {}) is None

    @pytest.mark.parametrize(
        "value", ["1", RUN_ID.lower(), RUN_ID + "0", "01KATEST0000000000000000IL", "a/../b"]
    )
    def test_what_is_no_run_id_is_refused(self, value: str) -> None:
        with pytest.raises(UsageError, match="no ULID"):
            given_run_id({"PACKTRAIN_RUN_ID": value})

    @pytest.mark.parametrize(
        ("output", "uri"),
        [
            ({"uri": "gs://b-ucket/out"}, f"gs://b-ucket/packtrain/tiny/{RUN_ID}"),
            ({"uri": "gs://b-ucket/out", "run_uri": "gs://other/place"}, "gs://other/place"),
            ({}, None),
        ],
    )
    def test_where_a_run_keeps_its_state(
        self, tmp_path: Path, base: Path, output: dict[str, str], uri: str | None
    ) -> None:
        config = load(make_job(tmp_path, base, output=output).run_file).config
        assert state_uri(config, {"PACKTRAIN_RUN_ID": RUN_ID}) == uri


@pytest.mark.slow
def test_the_run_has_the_pods_id_and_image_and_its_last_words_are_in_the_bucket(
    tmp_path: Path, base: Path, bucket_server: BucketServer
) -> None:
    job = cluster_job(tmp_path / "job", base, bucket_server, cluster={"max_cost": "100 USD"})
    code, out, err = ended(pod(job, tmp_path / "pod", processes=2))
    assert code == 0, err
    run_dir = RunDir(tmp_path / "pod")
    identity = run_dir.identity()
    assert identity is not None and identity.run_id == RUN_ID
    starts = [event.fields for event in history(run_dir.events_file) if event.kind == "start"]
    assert [(start["run_id"], start["image"]) for start in starts] == [(RUN_ID, IMAGE)]
    with_storage = open_storage(bucket_server.uri(f"packtrain/tiny/{RUN_ID}"))
    [first, *_] = read_logs(with_storage)
    assert first.rank == 0 and "node-0" in first.attempt
    assert all(line in first.text for line in [*out.splitlines(), *err.splitlines()])
    [entry] = read_entries(with_storage)
    assert 0 < entry.usd < amount(600)
    with_storage.close()
    assert IMAGE.encode() in bucket_server.data("final_model/receipt.json")
    assert not any(b"hf_not_to_be_seen" in data for data in bucket_server.snapshot().values())


@pytest.mark.slow
def test_a_spent_budget_stops_with_a_checkpoint_and_more_of_it_goes_on(
    tmp_path: Path, base: Path, bucket_server: BucketServer
) -> None:
    """Each attempt on a disk of its own, as replaced pods are."""
    job = cluster_job(
        tmp_path / "job",
        base,
        bucket_server,
        train={"epochs": 5000, "batch_tokens": 800, "learning_rate": 1e-4, "threads": 1},
        evaluate={"every": 1.0},
        checkpoint={"every": "1h"},
    )
    run = open_storage(bucket_server.uri(f"packtrain/tiny/{RUN_ID}"))
    code, _, err = ended(pod(job, tmp_path / "one", f"cluster.max_cost={usd(25)}"))
    assert code == 76, err
    assert "the budget is spent" in err and "hint: raise cluster.max_cost" in err
    spent = total_usd(read_entries(run))
    assert spent >= amount(25)
    events = history(RunDir(tmp_path / "one").events_file)
    assert [(event.kind, event.fields.get("exit_code")) for event in events[-2:]] == [
        ("preempted", None),
        ("end", 76),
    ]
    assert "the budget is spent" in events[-1].fields["message"]
    step = events[-1].step
    assert step > 0
    mirrored = b"".join(bucket_server.snapshot(f"packtrain/tiny/{RUN_ID}/events/").values())
    assert b'"exit_code": 76' in mirrored, "whoever reads the bucket alone learns of it"

    code, _, err = ended(pod(job, tmp_path / "two", f"cluster.max_cost={usd(25)}"))
    assert code == 76, err
    assert not (tmp_path / "two").exists(), "nothing was started"
    assert total_usd(read_entries(run)) == pytest.approx(spent)

    process = pod(job, tmp_path / "three", "cluster.max_cost=100 USD")
    events_file = RunDir(tmp_path / "three").events_file
    wait_until(lambda: history(events_file)[-1:] != [] and history(events_file)[-1].step > step, process)
    process.terminate()
    code, _, err = ended(process)
    assert code == 75, err
    starts = [event for event in history(events_file) if event.kind == "start"]
    assert starts[-1].fields["resumed_from"] == step
    run.close()


@pytest.mark.slow
def test_costs_that_cannot_be_read_end_nothing(
    tmp_path: Path, base: Path, bucket_server: BucketServer
) -> None:
    bucket_server.faults.add("GET", "prefix=.*cost%2F", Fault(status=403), times=None)
    job = cluster_job(tmp_path / "job", base, bucket_server, cluster={"max_cost": "100 USD"})
    code, out, err = ended(pod(job, tmp_path / "pod"))
    assert code == 0, err
    assert bucket_server.faults.hits > 0
    assert "Fine-tuning and GCS upload complete!" in out
