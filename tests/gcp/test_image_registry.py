"""Digests asked of registries, without a login and without a program for containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from standins.registry import Registry as StandIn
from standins.registry import serve_registry

from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError, UnavailableError
from packtrain.gcp.commands import Command, Finished
from packtrain.gcp.image.lookup import find_digest, resolve_base, resolve_digest
from packtrain.gcp.image.reference import Reference
from packtrain.gcp.image.registry import Registry
from packtrain.storage.retry import RetryPolicy

KIND = "application/vnd.oci.image.index.v1+json"
AT_ONCE = Registry(retry=RetryPolicy(attempts=3, sleep=lambda seconds: None))
DIGEST = "sha256:" + "d" * 64


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with serve_registry() as registry:
        yield registry


class NoPrograms:
    """A machine on which nothing is run."""

    def run(self, command: Command, *, timeout: float = 0) -> Finished:
        raise AssertionError(command)


class Gcloud:
    """Answers as gcloud 528 does."""

    def __init__(self, answer: Finished) -> None:
        self.answer = answer

    def run(self, command: Command, *, timeout: float = 0) -> Finished:
        assert command.argv[:5] == ("gcloud", "artifacts", "docker", "images", "describe")
        return self.answer


def image(standin: StandIn, name: str = "library/python", tag: str = ":3.11") -> Reference:
    return Reference.parse(f"{standin.host}/{name}{tag}")


@pytest.mark.parametrize("wants_token", [False, True])
def test_a_tag_is_resolved(standin: StandIn, wants_token: bool) -> None:
    standin.wants_token = wants_token
    digest = standin.add("library/python", "3.11", b"{}", KIND)
    assert AT_ONCE.digest(image(standin)) == digest
    assert AT_ONCE.digest(image(standin, tag=":none")) is None
    assert AT_ONCE.digest(image(standin, "other", ":3.11")) is None


def test_without_a_tag_it_is_latest(standin: StandIn) -> None:
    digest = standin.add("a/b", "latest", b"[]", KIND)
    assert AT_ONCE.digest(image(standin, "a/b", "")) == digest


def test_a_digest_asks_nobody(standin: StandIn) -> None:
    assert AT_ONCE.digest(image(standin, tag=f"@{DIGEST}")) == DIGEST
    assert standin.requests == []


def test_what_passes_by_itself_is_tried_again_and_not_for_ever(standin: StandIn) -> None:
    digest = standin.add("library/python", "3.11", b"{}", KIND)
    standin.busy = [429, 503]
    assert AT_ONCE.digest(image(standin)) == digest
    standin.busy = [429] * 9
    with pytest.raises(UnavailableError, match="too many questions") as refused:
        AT_ONCE.digest(image(standin))
    assert len(standin.busy) == 6
    assert "@sha256:" in str(refused.value.hint)


def test_a_private_image_is_said_to_need_a_login(standin: StandIn) -> None:
    standin.wants_token, standin.private = True, {"library/python"}
    with pytest.raises(AccessError, match="nobody who is not logged in"):
        AT_ONCE.digest(image(standin))


def test_a_registry_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 is not reached"):
        AT_ONCE.digest(Reference.parse("127.0.0.1:1/a:1"))


def test_a_challenge_that_leads_elsewhere_gets_no_answer(standin: StandIn) -> None:
    with pytest.raises(AccessError):
        AT_ONCE._token('Bearer realm="http://elsewhere.invalid/token"', image(standin))
    with pytest.raises(AccessError):
        AT_ONCE._token('Basic realm="x"', image(standin))


def test_the_base_is_resolved_or_said_to_be_missing(standin: StandIn) -> None:
    digest = standin.add("library/python", "3.11", b"{}", KIND)
    assert resolve_base(image(standin), NoPrograms(), AT_ONCE) == digest
    with pytest.raises(ConfigError, match=r"--base: .*none is not there"):
        resolve_base(image(standin, tag=":none"), NoPrograms(), AT_ONCE)


def config(image: str | None) -> RunConfig:
    return RunConfig.model_validate(
        {
            **{"name": "a", "model": {"source": "m"}, "data": {"train": "t.jsonl"}},
            "cluster": {"project": "my-project", "location": "us-central1", "image": image},
        }
    )


def test_a_run_gets_its_image_by_digest(standin: StandIn) -> None:
    digest = standin.add("mine", "v1", b"{}", KIND)
    assert (
        resolve_digest(config(f"{standin.host}/mine:v1"), NoPrograms(), AT_ONCE)
        == f"{standin.host}/mine@{digest}"
    )
    fixed = f"a.example/mine@{DIGEST}"
    assert resolve_digest(config(fixed), NoPrograms(), AT_ONCE) == fixed
    gcloud = Gcloud(Finished(0, f'{{"image_summary": {{"digest": "{DIGEST}"}}}}'))
    assert (
        resolve_digest(config(None), gcloud)
        == f"us-central1-docker.pkg.dev/my-project/packtrain/trainer@{DIGEST}"
    )


@pytest.mark.parametrize("said", ["Image not found.", "NOT_FOUND: Requested entity was not found."])
def test_an_image_that_was_not_built_says_which_command_builds_it(said: str) -> None:
    absent = Gcloud(Finished(1, stderr=f"ERROR: (gcloud.artifacts.docker.images.describe) {said}"))
    with pytest.raises(ConfigError, match="is not there") as missing:
        resolve_digest(config(None), absent)
    assert missing.value.hint == "build it: packtrain image build RUN"


def test_a_foreign_image_that_is_missing_is_the_run_files_matter(standin: StandIn) -> None:
    with pytest.raises(ConfigError, match="is not there") as missing:
        resolve_digest(config(f"{standin.host}/mine:v1"), NoPrograms(), AT_ONCE)
    assert missing.value.hint == "check cluster.image"


def test_no_right_to_look_is_told_as_such() -> None:
    denied = "ERROR: PERMISSION_DENIED: Permission 'artifactregistry.tags.get' denied on resource"
    with pytest.raises(AccessError, match=r"artifactregistry\.tags\.get"):
        find_digest(Reference.parse("us-docker.pkg.dev/p/r/i:1"), Gcloud(Finished(1, stderr=denied)))
