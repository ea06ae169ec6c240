"""What Cloud Build may do after a setup: push to one repository and read one bucket, nothing more."""

from __future__ import annotations

from pathlib import Path

import pytest
from setups import EVERYTHING, Setup, config, site
from standins.fake_programs import BUILDER, FakePrograms

from packtrain.errors import AccessError, UnavailableError
from packtrain.gcp.check import from_plan
from packtrain.gcp.commands import Command, Finished, Programs
from packtrain.gcp.session import open_session
from packtrain.gcp.setup import Options

BUCKET = "buckets gs://my-project_cloudbuild"
OLD = "123456789012@cloudbuild.gserviceaccount.com"


def laptop(tmp_path: Path, cloud: FakePrograms, **cluster: str) -> Setup:
    return Setup(site(**cluster), cloud, tmp_path, EVERYTHING)


def test_the_account_that_builds_gets_two_rights_and_destroy_takes_them(tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud)
    setup.run()
    member = f"serviceAccount:{BUILDER}"
    assert cloud.policies["repositories packtrain"] == [
        ("roles/artifactregistry.reader", member),
        ("roles/artifactregistry.writer", member),
    ]
    assert cloud.policies[BUCKET] == [("roles/storage.objectViewer", member)]
    assert not [
        each for each in cloud.ran if each.argv[:3] == ("gcloud", "projects", "add-iam-policy-binding")
    ]
    cloud.objects["gs://my-project_cloudbuild"] = ["source/1.tgz"]
    undone = {each.step.key: each.undo for each in setup.undo_plan()}
    assert undone["build-access"].action == undone["build-source"].action == "remove"
    assert "has objects" in undone["build-bucket"].sentence
    setup.destroy()
    assert cloud.policies[BUCKET] == []


def test_an_older_project_builds_with_its_own_account(tmp_path: Path) -> None:
    cloud = FakePrograms()
    asked = ("gcloud", "builds", "get-default-service-account")
    cloud.fails = lambda command: Finished(0, f"{OLD}\n") if command.argv[:3] == asked else None
    states = laptop(tmp_path, cloud).states()
    assert states["build-access"] == "make"
    cloud.state["repositories packtrain"] = {"format": "DOCKER", "name": "packtrain"}
    cloud.policies["repositories packtrain"] = [("roles/artifactregistry.writer", f"serviceAccount:{OLD}")]
    assert laptop(tmp_path, cloud).states()["build-access"] == "there"


def test_before_cloud_build_is_enabled_nobody_can_say_who_builds(tmp_path: Path) -> None:
    cloud = FakePrograms(state={"repositories packtrain": {"format": "DOCKER"}})
    off = "ERROR: Cloud Build API has not been used in project 1 before or it is disabled."
    asked = ("gcloud", "builds", "get-default-service-account")
    cloud.fails = lambda command: Finished(1, "", off) if command.argv[:3] == asked else None
    assert laptop(tmp_path, cloud).states()["build-access"] == "make"


def test_a_refusal_to_say_who_builds_is_told(tmp_path: Path) -> None:
    cloud = FakePrograms(state={"repositories packtrain": {"format": "DOCKER"}})
    no = "ERROR: (gcloud.builds.get-default-service-account) PERMISSION_DENIED: no permission"
    asked = ("gcloud", "builds", "get-default-service-account")
    cloud.fails = lambda command: Finished(1, "", no) if command.argv[:3] == asked else None
    (seen,) = [each.seen for each in laptop(tmp_path, cloud).plan() if each.step.key == "build-access"]
    assert isinstance(seen.error, AccessError)


def test_an_image_that_is_named_by_its_digest_needs_no_builds(tmp_path: Path) -> None:
    image = "us-central1-docker.pkg.dev/my-project/packtrain/trainer@sha256:" + "0" * 64
    states = laptop(tmp_path, FakePrograms(), image=image).states()
    assert not [key for key in states if key.startswith("build-")]
    assert "image-access" in states


def test_a_check_takes_it_for_a_note(tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud)
    setup.run()
    cloud.policies["repositories packtrain"].pop()
    setup.options = Options(has_token=True)
    (found,) = [each for each in from_plan(setup.plan()) if each.verdict == "note"]
    assert found.title == "roles/artifactregistry.writer on packtrain for Cloud Build"
    assert found.exit_code == 0


def test_the_account_is_asked_for_when_a_command_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gcloud"
    program.write_text(
        '#!/bin/sh\necho "$*" >> "$0.log"\n'
        'case "$*" in projects*) echo 1;; builds*) cat "$0.account";; *) echo "$*";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    session = open_session(config())
    session.begin()
    bind = Command(("gcloud", "bind", "serviceAccount:$BUILD_ACCOUNT"), values=("BUILD_ACCOUNT",))
    (tmp_path / "gcloud.account").write_text("\n")
    with pytest.raises(UnavailableError, match="with which account it builds"):
        session.runner.run(bind)
    (tmp_path / "gcloud.account").write_text(f"{OLD}\n")
    assert session.runner.run(bind).stdout == f"bind serviceAccount:{OLD}\n"
    session.runner.run(bind)
    asked = (tmp_path / "gcloud.log").read_text().count("builds get-default-service-account")
    assert asked == 2, "once it is known it is not asked for again"
    assert isinstance(session.runner, Programs)
