"""Cloud Build: the real gcloud against a loopback server, and a sentence for each way to fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standins.cloud_build import ACCOUNT, LOGS, CloudBuild, Scene, serve_cloud_build
from whole_run import Ended, packtrain

from packtrain.config import RunConfig
from packtrain.errors import (
    AccessError,
    ConfigError,
    DataError,
    PacktrainError,
    StorageError,
    UnavailableError,
)
from packtrain.gcp.commands import Command, Finished
from packtrain.gcp.image import cloud, content
from packtrain.gcp.image.content import WHEEL, context
from packtrain.gcp.image.recipe import Recipe, recipe
from packtrain.storage.retry import RetryPolicy

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "gke-llama3-dolly"
DIGEST = "sha256:" + "b" * 64
BASE = f"docker.io/library/python@{DIGEST}"
RUN = """\
name: a
model: {source: m/m}
data: {train: d/d}
cluster: {project: my-project, location: us-central1}
"""
needs_gcloud = pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")


@pytest.fixture(autouse=True)
def same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as it is now: whoever works on it meanwhile changes no tag in mid-test."""
    files = list(content.package_files())
    monkeypatch.setattr(content, "package_files", lambda: iter(files))


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CloudBuild]:
    with serve_cloud_build() as standin:
        for name, value in standin.environment(tmp_path / "gcloud").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(cloud, "INTERVAL", 0.0)
        yield standin


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def build(run_file: Path, *more: str) -> Ended:
    return packtrain("image", "build", str(run_file), "--base", BASE, *more)


def made() -> Recipe:
    sections: dict[str, Any] = {"name": "a", "model": {"source": "m"}, "data": {"train": "d/d"}}
    place = {"project": "my-project", "location": "us-central1"}
    return recipe(RunConfig.model_validate(sections | {"cluster": place}), BASE)


@needs_gcloud
@pytest.mark.slow
def test_it_is_built_once_shown_while_it_is_and_found_again(google: CloudBuild, run_file: Path) -> None:
    google.story = [
        *(Scene("QUEUED"), Scene("WORKING", "Step 1\nSte"), Scene("WORKING", "Step 1\nStep 2\n")),
        Scene("SUCCESS", "Step 1\nStep 2\nPUSH\nDONE"),
    ]
    first = build(run_file, "--json")
    assert first.code == 0, first.err
    record = json.loads(first.out)
    image = f"us-central1-docker.pkg.dev/my-project/packtrain/trainer:{context(BASE).tag}"
    assert record["image"] == image
    assert record["digest"] == google.tags[image]
    assert record["reference"] == f"{image.rpartition(':')[0]}@{google.tags[image]}"
    assert (record["base"], record["base_digest"], record["built"]) == (BASE, DIGEST, True)
    shown = [line.strip() for line in first.err.splitlines() if line.startswith("  ")]
    assert shown == ["Step 1", "Step 2", "PUSH", "DONE"]
    assert f"cluster.image: {image}" in first.err  # another base than the default
    (submitted,) = google.builds.values()
    assert google.source(submitted)[WHEEL] == context(BASE).files[WHEEL]
    assert google.source(submitted).keys() == context(BASE).files.keys()
    assert submitted["substitutions"]["_BASE"] == BASE
    assert submitted["substitutions"]["_BASE_DIGEST"] == DIGEST
    again = build(run_file)
    assert again.code == 0, again.err
    assert "is there already" in again.err
    assert again.out == f"{record['reference']}\n"
    assert len(google.builds) == 1


@needs_gcloud
@pytest.mark.slow
def test_a_build_that_runs_is_followed_and_its_failure_told(google: CloudBuild, run_file: Path) -> None:
    image = f"us-central1-docker.pkg.dev/my-project/packtrain/trainer:{context(BASE).tag}"
    google.builds["build-0"] = {
        **{"id": "build-0", "projectId": "my-project", "status": "WORKING", "images": ["${_IMAGE}"]},
        **{"substitutions": {"_IMAGE": image}, "logsBucket": "gs://logs-bucket", "serviceAccount": ACCOUNT},
        "createTime": "2026-01-01T00:00:00Z",
    }
    denied = 'denied: Permission "artifactregistry.repositories.uploadArtifacts" denied on resource'
    google.story = [Scene("WORKING"), Scene("FAILURE", f"{denied}\n", {"logsBucket": f"gs://{LOGS}"})]
    ended = build(run_file)
    assert ended.code == AccessError.exit_code
    assert "following it" in ended.err
    assert (
        "may not push to us-central1-docker.pkg.dev/my-project/packtrain/trainer (build build-0)" in ended.err
    )
    assert "123456789012-compute@developer.gserviceaccount.com the role" in ended.err
    assert list(google.builds) == ["build-0"]


@needs_gcloud
@pytest.mark.slow
def test_the_guides_script_pushes_the_guides_image(google: CloudBuild, tmp_path: Path) -> None:
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "packtrain").write_text(f'#!/bin/sh\nexec {sys.executable} -m packtrain.cli.main "$@"\n')
    (programs / "packtrain").chmod(0o755)
    environment = os.environ | {"PROJECT_ID": "my-project", "PATH": f"{programs}:{os.environ['PATH']}"}
    ended = subprocess.run(
        [str(folder / "push.sh"), "--async"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    image = "us-central1-docker.pkg.dev/my-project/ml-containers/llama-fsdp-trainer:v1"
    assert ended.stdout.splitlines()[-1] == image
    (submitted,) = google.builds.values()
    assert submitted["images"] == [image]
    assert submitted["timeout"] == "5400s"
    sent = google.source(submitted)
    assert sent.keys() >= {
        "Dockerfile",
        "run.yaml",
        "scripts/finetune.py",
        f"image/{WHEEL}",
        "image/requirements.lock",
    }
    assert not {"README.md", "push.sh", "finetune-job.yaml"} & sent.keys()


def test_a_dry_run_runs_nothing_and_prints_what_would_be_run(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    ended = packtrain("image", "build", str(run_file), "--dry-run")
    assert ended.code == 0, ended.err
    assert 'gcloud builds submit "$CONTEXT" "--config=$CONTEXT/cloudbuild.yaml"' in ended.out
    assert "_BASE=docker.io/library/python@$BASE_DIGEST" in ended.out
    assert f"packtrain/trainer:{context().tag}" in ended.out


def test_the_context_is_written_for_other_builders(run_file: Path, tmp_path: Path) -> None:
    ended = packtrain("image", "build", str(run_file), "--context", str(tmp_path / "context"))
    assert ended.code == 0, ended.err
    assert {path.name for path in (tmp_path / "context").iterdir()} == context().files.keys()


def test_cloud_build_cannot_have_a_base_of_this_machine(google: CloudBuild, run_file: Path) -> None:
    run_file.write_text(RUN.replace("us-central1}", "us-central1, image: 'a.example/b:1'}"))
    ended = packtrain("image", "build", str(run_file), "--base", "localhost/base")
    assert ended.code == ConfigError.exit_code
    assert "add --local" in ended.err


def test_without_an_engine_local_says_what_to_install(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    run_file.write_text(RUN.replace("us-central1}", "us-central1, image: 'a.example/b:1'}"))
    ended = build(run_file, "--local")
    assert ended.code == ConfigError.exit_code
    assert "docker, podman or buildah, and none of them is on PATH" in ended.err


FAILURES: list[tuple[dict[str, Any], type[PacktrainError], str]] = [
    (
        {"log": 'name unknown: Repository "packtrain" not found\n'},
        ConfigError,
        "the repository of .* is not there",
    ),
    (
        {"log": "the base has Python 3.12; requirements.lock is for 3.11\n"},
        ConfigError,
        "--base: the base has Python",
    ),
    (
        {"log": "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE\n"},
        DataError,
        "lock file",
    ),
    ({"log": "OSError: [Errno 28] No space left on device\n"}, StorageError, "disk is full"),
    ({"log": "toomanyrequests: You have reached your pull rate limit\n"}, UnavailableError, "too many pulls"),
    ({"status": "TIMEOUT"}, UnavailableError, "took longer than it may"),
    ({"status": "CANCELLED"}, UnavailableError, "was cancelled"),
    ({"status": "EXPIRED"}, UnavailableError, "waited too long for a machine"),
    ({"status": "INTERNAL_ERROR"}, UnavailableError, "error of Cloud Build's own"),
    (
        {"log": "a\nb\n", "failureInfo": {"detail": "step 0 exited with 1"}},
        UnavailableError,
        "step 0 exited with 1\na\nb",
    ),
    ({}, UnavailableError, "a step ended badly"),
]


@pytest.mark.parametrize(("more", "kind", "sentence"), FAILURES)
def test_each_end_of_a_build_has_its_sentence(
    more: dict[str, Any], kind: type[PacktrainError], sentence: str
) -> None:
    ended = {"id": "x", "status": "FAILURE", "log": "", "logUrl": "https://console.invalid/x", **more}
    with pytest.raises(kind, match=sentence) as failure:
        cloud.built_digest(ended, made())
    assert type(failure.value) is kind
    assert failure.value.hint


def test_a_success_without_a_digest_is_no_success() -> None:
    ended = {
        "id": "x",
        "status": "SUCCESS",
        "log": "",
        "results": {"images": [{"name": "other", "digest": DIGEST}]},
    }
    with pytest.raises(UnavailableError, match="tells no digest"):
        cloud.built_digest(ended, made())


class Answers:
    """gcloud, answering one line of a list each time that a build is looked at."""

    def __init__(self, looks: list[Finished], log: str = "") -> None:
        self.looks, self.log = looks, log
        self.submitted = 0

    def run(self, command: Command, *, timeout: float = 0) -> Finished:
        words = command.argv[1:3]
        if words == ("builds", "list"):
            return Finished(0, "[]")
        if words == ("builds", "submit"):
            self.submitted += 1
            return Finished(0, json.dumps({"id": "x", "status": "QUEUED"}))
        if words == ("storage", "cat"):
            return Finished(0, self.log) if self.log else Finished(1, stderr="ERROR: no right to read it")
        return self.looks.pop(0)


def look(status: str) -> Finished:
    image = {"name": str(made().image), "digest": DIGEST}
    told = {"id": "x", "status": status, "logsBucket": "gs://l", "results": {"images": [image]}}
    return Finished(0, json.dumps(told))


DOWN = Finished(1, stderr="ERROR: (gcloud.builds.describe) HTTPError 503: backendError")


def test_looks_that_fail_for_a_while_lose_no_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cloud, "PATIENCE", RetryPolicy(attempts=3, sleep=lambda seconds: None))
    gcloud = Answers([look("WORKING"), DOWN, DOWN, look("WORKING"), DOWN, DOWN, look("SUCCESS")])
    heard: list[str] = []
    digest, build_id = cloud.build(made(), tmp_path, DIGEST, gcloud, heard.append, sleep=lambda seconds: None)
    assert (digest, build_id, gcloud.submitted) == (DIGEST, "x", 1)
    assert sum("cannot be asked now" in line for line in heard) == 4
    with pytest.raises(UnavailableError):
        cloud.follow("x", "my-project", Answers([DOWN] * 5), heard.append, sleep=lambda seconds: None)


def test_ctrl_c_leaves_the_build_and_says_how_to_come_back(tmp_path: Path) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    heard: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        cloud.build(made(), tmp_path, DIGEST, Answers([look("WORKING")]), heard.append, sleep=interrupted)
    assert heard[-1].endswith("gcloud builds cancel x --project=my-project")


def test_without_a_project_cloud_build_is_not_asked(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"name": "a", "model": {"source": "m"}, "data": {"train": "d/d"}}
    foreign = recipe(RunConfig.model_validate(sections | {"cluster": {"image": "a.example/b:1"}}))
    with pytest.raises(ConfigError, match="no project to build in"):
        cloud.build(foreign, tmp_path, DIGEST, Answers([]), print)
