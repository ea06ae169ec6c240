"""Whole rehearsals: the rendered pods as processes, preemption, and what ends a run for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launches import config_of, launch_of
from rehearsals import in_bucket
from standins.bucket import BucketServer
from tiny import make_tiny_base
from whole_run import ROOT, facts

from packtrain.config import RunConfig
from packtrain.errors import ConfigError, DataError, GateError, UsageError
from packtrain.kube import rehearse as rehearsing
from packtrain.kube.manifests import render
from packtrain.kube.names import CONFIG_HASH
from packtrain.kube.rehearsal.small import make_small
from packtrain.kube.rehearse import NOT_REHEARSED, rehearse
from packtrain.kube.rehearse import launch_of as launched
from packtrain.runfile import dump

REHEARSE = (sys.executable, "-m", "packtrain.cli.main", "rehearse")
MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def config(bucket_server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeConfig:
    """The reference job, with base and data in a bucket that answers."""
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    base = make_tiny_base(tmp_path / "big", "llama3")

    def make(rows: list[dict[str, Any]] | None = None, **sections: Any) -> RunConfig:
        return config_of(**in_bucket(bucket_server, base, rows), **sections)

    return make


def left_behind() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("packtrain-rehearse-*"))


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.mark.slow
@pytest.mark.usefixtures("own_temporary")
def test_one_node_is_preempted_and_ends_the_same(config: MakeConfig) -> None:
    said: list[str] = []
    rehearsal = rehearse(config(), preempt=True, ranks=1, say=said.append)
    rehearsal.check()
    assert (rehearsal.kind, rehearsal.nodes, rehearsal.ranks) == ("Job", 1, 1)
    assert [(each.pod.exit_code, each.action) for each in rehearsal.undisturbed.story.pods] == [
        (0, "Complete")
    ]
    assert rehearsal.preempted is not None
    story = rehearsal.preempted.story
    assert [(each.pod.exit_code, each.pod.disrupted, each.action) for each in story.pods] == [
        (75, True, "Ignore"),
        (0, False, "Complete"),
    ]
    assert story.struck_after is not None and story.resumed_from() is not None
    assert story.resumed_from() >= story.struck_after  # type: ignore[operator]
    assert rehearsal.verdict().endswith("the adapter is the same to the bit.")
    looked = [line for line in said if line.startswith("preflight: pod ")]
    assert [line.rpartition(" ended with ")[2] for line in looked[1:]] == ["0: Complete"]
    assert said.index("undisturbed") > said.index(looked[1]), "before anything is trained"
    assert {each.what for each in NOT_REHEARSED} <= {each.what for each in rehearsal.differences}
    assert left_behind() == []


@pytest.mark.slow
def test_two_nodes_by_the_command_line(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(dump(config()))
    ended = subprocess.run(
        [*REHEARSE, str(tmp_path / "run.yaml"), "--preempt", "--nodes", "2", "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["kind"], told["nodes"], told["equal"]) == ("JobSet", 2, True)
    undisturbed, preempted = told["runs"]["undisturbed"], told["runs"]["preempted"]
    assert [pod["exit_code"] for pod in undisturbed["pods"]] == [0, 0]
    assert [pod["exit_code"] for pod in preempted["pods"]] == [75, 75, 0, 0]
    [restart] = preempted["restarts"]
    assert restart.startswith("RestartJobSetAndIgnoreMaxRestarts, rule ")
    assert preempted["resumed_from"] >= preempted["preempted_after_step"] > 0
    assert "SIGTERM" in ended.stderr
    whats = [each["what"] for each in told["differences"]]
    assert len(whats) == len(set(whats)), "the preflight pod's are not told twice"
    assert {"env STORAGE_EMULATOR_HOST", "env PACKTRAIN_MASTER_ADDR"} <= set(whats)
    assert not list(tmp_path.glob("packtrain-rehearse-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("own_temporary")
def test_bad_data_fails_the_job_at_once(config: MakeConfig) -> None:
    said: list[str] = []
    rows = [*facts(5), {"instruction": "What?", "context": "", "response": ""}, *facts(5)]
    with pytest.raises(DataError, match="failed with exit code 65 matching FailJob rule") as error:
        rehearse(config(rows), ranks=1, say=said.append)
    assert "train.jsonl:6" in str(error.value)
    started = [line for line in said if line.endswith("is started") and not line.startswith("preflight: ")]
    assert len(started) == 1, "and is not started again"
    assert left_behind() == []


@pytest.mark.slow
@pytest.mark.usefixtures("own_temporary")
def test_time_that_is_over_ends_all(config: MakeConfig) -> None:
    said: list[str] = []
    with pytest.raises(GateError, match="did not end in its time"):
        rehearse(config(), ranks=1, seconds=1.0, say=said.append)
    assert left_behind() == []
    assert running_supervisors() == []


def running_supervisors() -> list[int]:
    """Children of this process that are supervisors."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and b"packtrain.run.supervisor" in command.read_bytes():
                found.append(int(pid))
    return found


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(dump(config()))
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [*REHEARSE, str(tmp_path / "run.yaml")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    log.close()
    until = time.monotonic() + 120
    while "is started" not in (tmp_path / "log").read_text():
        assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not list(tmp_path.glob("packtrain-rehearse-*"))
    assert not any(str(tmp_path).encode() in command for command in command_lines())


def command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found


def test_a_run_file_that_no_cluster_takes_is_refused_before_anything_is_made() -> None:
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"output\.uri: is needed"):
        rehearse(config_of(output={"uri": "/somewhere"}), say=said.append)
    with pytest.raises(ConfigError, match="host_network: is only for several a3-megagpu-8g"):
        cluster = {"machine": "a3-ultragpu-8g", "host_network": True}
        rehearse(config_of(cluster=cluster), nodes=2, say=said.append)
    with pytest.raises(UsageError, match="g2-standard-4 has 1 GPUs"):
        rehearse(config_of(cluster={"machine": "g2-standard-4"}), ranks=2, say=said.append)
    assert said == []


@pytest.mark.parametrize("cluster", [{}, {"nodes": 2}, {"capacity": "queued", "queue": "a", "nodes": 3}])
def test_the_manifests_of_a_rehearsal_are_the_runs_own_but_for_the_run_file(
    config: MakeConfig, tmp_path: Path, cluster: dict[str, Any]
) -> None:
    own = launched(config(cluster=cluster))
    small = make_small(own.config, tmp_path / "made").config
    rehearsed = launched(small, own.run_id, own.image)
    same = replace(own, run_yaml=rehearsed.run_yaml)
    assert changed_paths(render(same), render(rehearsed)) == {
        f"metadata.annotations.{CONFIG_HASH}",
        "metadata.annotations.packtrain.dev/output-uri",
        "metadata.annotations.packtrain.dev/run-uri",
    }


def changed_paths(one: Any, two: Any, path: str = "") -> set[str]:
    if isinstance(one, dict) and isinstance(two, dict):
        keys = one.keys() | two.keys()
        return {
            each
            for key in keys
            for each in changed_paths(one.get(key), two.get(key), f"{path}.{key}".lstrip("."))
        }
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return {each for a, b in zip(one, two, strict=True) for each in changed_paths(a, b, path)}
    return set() if one == two else {path}


def test_an_image_without_a_registry_is_only_named() -> None:
    config = config_of(cluster={"project": None, "location": None})
    assert launched(config).image == "packtrain/trainer"
    named = config_of(cluster={"image": launch_of().image})
    assert launched(named).image == launch_of().image


def test_a_token_that_was_written_somewhere_is_found(tmp_path: Path) -> None:
    from packtrain.kube.rehearsal.bucket import Bucket

    with Bucket() as bucket:
        rehearsing._kept_secret("hf_abc", bucket, tmp_path)
        (tmp_path / "log").write_text("HF_TOKEN=hf_abc")
        with pytest.raises(GateError, match=r"token was written to .*/log"):
            rehearsing._kept_secret("hf_abc", bucket, tmp_path)
        (tmp_path / "log").unlink()
        bucket.put("run/events/1.jsonl", b'{"token": "hf_abc"}')
        with pytest.raises(GateError, match="token was written to gs://"):
            rehearsing._kept_secret("hf_abc", bucket, tmp_path)
