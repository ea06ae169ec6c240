"""Building here: the engines' commands, and a real push by buildah to a registry on loopback."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import Store, make_store, need_programs
from standins.registry import Registry, digest_of, serve_registry

from packtrain.config import RunConfig
from packtrain.errors import ConfigError, UnavailableError
from packtrain.gcp.commands import Command, Finished, Programs
from packtrain.gcp.image import local, make
from packtrain.gcp.image.content import DOCKERFILE, Context
from packtrain.gcp.image.recipe import Recipe, recipe
from packtrain.gcp.image.reference import Reference

DIGEST = "sha256:" + "c" * 64
OURS = Reference.parse("us-central1-docker.pkg.dev/my-project/packtrain/trainer:1")


def a_recipe(image: str, base: str | None = None) -> Recipe:
    sections = {"name": "a", "model": {"source": "m"}, "data": {"train": "d/d"}, "cluster": {"image": image}}
    return recipe(RunConfig.model_validate(sections), base)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve_registry() as standin:
        yield standin


@pytest.fixture
def store(registry: Registry, tmp_path: Path) -> Iterator[Store]:
    need_programs()
    made = make_store(tmp_path / "store", insecure=[registry.host])
    yield made
    made.run("podman", "system", "reset", "--force", check=False)


@pytest.mark.slow
def test_an_image_is_built_pushed_and_known_by_the_registrys_digest(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ENGINES", ("buildah",))
    plan = a_recipe(f"{registry.host}/mine/trainer", "localhost/base")
    # A Dockerfile that takes what ours takes, and builds in a second.
    text = "ARG BASE\nFROM ${BASE}\nARG BASE_DIGEST\nLABEL digest=${BASE_DIGEST}\nCOPY requirements.lock /\n"
    plan = dataclasses.replace(
        plan, context=Context({**plan.context.files, DOCKERFILE: text.encode()}, plan.context.content)
    )
    (store.folder / "base").mkdir()
    (store.folder / "base" / "Dockerfile").write_text("FROM scratch\nLABEL base=yes\n")
    store.build(store.folder / "base", "localhost/base")
    heard: list[str] = []
    runner = Programs(environment=store.environment)
    record = make.make(plan, runner, heard.append, local=True)
    path = f"mine/trainer:{plan.image.tag}"
    kind, manifest = registry.manifests[path]
    assert record.digest == digest_of(manifest)
    assert record.reference == f"{registry.host}/mine/trainer@{record.digest}"
    config = json.loads(registry.blobs[json.loads(manifest)["config"]["digest"]])
    labels = config["config"]["Labels"]
    assert labels["base"] == "yes"
    assert labels["digest"] == record.base_digest == store.inspect("localhost/base")["Digest"]
    assert any("STEP" in line for line in heard)
    again = make.make(plan, runner, heard.append, local=True)
    assert (again.digest, again.built) == (record.digest, False)
    assert "is there already" in heard[-1]
    assert kind.startswith("application/vnd.")


@pytest.mark.slow
def test_a_build_that_fails_shows_its_last_lines(store: Store, tmp_path: Path) -> None:
    plan = a_recipe("localhost/x:1", "localhost/none")
    runner = Programs(environment=store.environment)
    with pytest.raises(ConfigError, match="buildah has no image localhost/none"):
        local.base_digest("buildah", plan.base, runner)
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / DOCKERFILE).write_text("FROM scratch\nCOPY nothing /\n")
    with pytest.raises(UnavailableError, match=r"cannot build the image \(exit code \d+\)\n(?s:.*)nothing"):
        local.build("buildah", plan, tmp_path / "context", DIGEST, runner, lambda line: None)
    with pytest.raises(UnavailableError, match="cannot push"):
        local.push("buildah", Reference.parse("127.0.0.1:1/x:1"), runner, lambda line: None)


@pytest.mark.parametrize(
    ("engine", "login", "push"),
    [
        ("docker", ("docker", "--config=A", "login"), ("docker", "--config=A", "push", str(OURS))),
        ("podman", ("podman", "login", "--authfile=A"), ("podman", "push", "--authfile=A", str(OURS))),
        ("buildah", ("buildah", "login", "--authfile=A"), ("buildah", "push", "--authfile=A", str(OURS))),
    ],
)
def test_the_login_is_kept_apart_and_its_token_is_in_no_argument(
    engine: str, login: tuple[str, ...], push: tuple[str, ...]
) -> None:
    _, command = local.login_commands(engine, OURS.host, "A")
    assert command.argv[:3] == login
    assert command.argv[-2:] == ("--password-stdin", OURS.host)
    assert command.stdin == "$ACCESS_TOKEN"
    assert local.push_command(engine, OURS, "A").argv == push
    assert local.push_command(engine, OURS, None).argv == (engine, "push", str(OURS))


class Engines:
    """A machine on which some engines answer."""

    def __init__(self, *answering: str) -> None:
        self.answering = answering

    def run(self, command: Command, *, timeout: float = 0) -> Finished:
        return Finished(0 if command.argv[0] in self.answering else 1)


def test_an_engine_whose_daemon_is_off_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("docker", "podman"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local.find_engine(Engines("docker", "podman")) == "docker"
    assert local.find_engine(Engines("podman")) == "podman"
    with pytest.raises(ConfigError, match="docker and podman cannot be used: no daemon answers"):
        local.find_engine(Engines())


def test_the_base_is_pulled_by_its_digest_and_one_of_this_machine_by_its_name() -> None:
    by_digest = a_recipe("a.example/b:1").build_arguments(DIGEST)
    assert by_digest["BASE"] == f"docker.io/library/python@{DIGEST}"
    assert by_digest["BASE_NAME"] == "docker.io/library/python:3.11-slim-bookworm"
    here = a_recipe("a.example/b:1", "localhost/base").build_arguments(DIGEST)
    assert (here["BASE"], here["BASE_DIGEST"]) == ("localhost/base", DIGEST)


def test_what_local_runs_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_engine", lambda runner: "podman")
    plan = dataclasses.replace(a_recipe("a.example/b:1"), image=OURS)
    text = make.shown(plan, Programs(), local=True, folder=Path("/context"))
    assert "podman build" in text
    assert text.index('ACCESS_TOKEN="$(gcloud auth print-access-token)"') < text.index("podman login")
    assert f'podman push "--authfile=$AUTH" {OURS}' in text
    assert "/context" in text
