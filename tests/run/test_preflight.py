"""The gate and the preflight program: every refusal told, nothing left behind, a pin for what moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins.bucket import BucketServer, Fault, bucket_server  # noqa: F401
from standins.hub import Hub, Repo, point_here, serve_hub
from standins.hub_files import commit_of

from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError, StorageError
from packtrain.run.gate import check_bucket, check_data, check_model, checks, pin
from packtrain.run.preflight import ask, main


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    models: dict[str, Path | dict[str, Path] | Repo] = {
        "org/base": folder,
        "org/gated": Repo({"main": folder}, gated=True),
    }
    with serve_hub(models=models, datasets={"org/rows": folder, "org/more": folder}) as hub:
        point_here(monkeypatch, hub, tmp_path / "home")
        yield hub


def config(bucket: BucketServer, **changes: Any) -> RunConfig:
    data: dict[str, Any] = {
        "name": "train",
        "model": {"source": "org/base"},
        "data": {"train": "org/rows"},
        "output": {"uri": bucket.uri("out")},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        data[section][name] = value
    return RunConfig.model_validate(data)


def test_what_may_be_used_is_pinned(hub: Hub, bucket_server: BucketServer, tmp_path: Path) -> None:  # noqa: F811
    commit = commit_of(tmp_path / "repo")
    asked = config(bucket_server)
    answers = list(checks(asked, write=False))
    assert [(each.name, each.error) for each in answers] == [
        ("model", None),
        ("data", None),
        ("bucket", None),
        ("bucket", None),
    ]
    pinned = pin(asked, answers)
    assert (pinned.model.revision, pinned.data.revision) == (commit, commit)


@pytest.mark.parametrize(
    ("train", "validation", "is_pinned"),
    [
        ("org/rows:train", "org/rows:test", True),
        ("org/rows", "org/more", True),
        (["org/rows", "org/more"], 0.1, False),
        ("gs://test-bucket/rows.jsonl", "org/more", False),
    ],
)
def test_one_data_set_is_pinned_and_no_other_takes_its_commit(
    hub: Hub,
    bucket_server: BucketServer,  # noqa: F811
    train: Any,
    validation: Any,
    is_pinned: bool,
) -> None:
    bucket_server.put("rows.jsonl", b"{}\n")
    asked = config(bucket_server, data__train=train, data__validation=validation)
    answers = list(checks(asked, write=False))
    assert all(each.error is None for each in answers)
    assert (pin(asked, answers).data.revision is not None) == is_pinned


def test_each_source_of_a_mixture_is_pinned_by_itself(
    hub: Hub,
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    bucket_server.put("rows.jsonl", b"{}\n")
    commit = commit_of(tmp_path / "repo")
    train = [
        {"source": "org/rows", "weight": 2.0},
        "org/more",
        {"source": bucket_server.uri("rows.jsonl")},
        {"source": "org/rows", "revision": commit},
    ]
    asked = config(bucket_server, data__train=train, data__validation="org/rows:test")
    answers = list(checks(asked, write=False))
    assert all(each.error is None for each in answers)
    asked_of = [(each.subject, each.revision) for each in answers if each.name == "data"]
    assert asked_of[:2] == [("org/rows", None), ("org/more", None)]
    assert asked_of[3:] == [("org/rows", commit), ("org/rows:test", commit)]
    pinned = pin(asked, answers)
    assert pinned.data.revisions == (commit, commit, None, commit)
    assert [item.weight for item in pinned.data.mixture] == [2.0, 1.0, 1.0, 1.0]
    assert pinned.data.revision is None


def test_a_revision_that_is_not_there_is_refused_for_its_item(hub: Hub, bucket_server: BucketServer) -> None:  # noqa: F811
    train = [{"source": "org/rows"}, {"source": "org/more", "revision": "none"}]
    refused = [each for each in checks(config(bucket_server, data__train=train), write=False) if each.error]
    assert [(each.subject, type(each.error)) for each in refused] == [("org/more", ConfigError)]


def test_all_that_is_refused_is_answered(hub: Hub, bucket_server: BucketServer) -> None:  # noqa: F811
    asked = config(
        bucket_server, model__source="org/gated", data__train="org/none", output__uri="gs://none/x"
    )
    kinds = [type(each.error) for each in checks(asked, write=False)]
    assert kinds == [AccessError, AccessError, StorageError, StorageError]


def test_a_model_and_data_in_a_bucket(bucket_server: BucketServer) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match="is not there"):
        check_model(bucket_server.uri("model"))
    bucket_server.put("model/config.json", b"{}")
    with pytest.raises(ConfigError, match="no weights"):
        check_model(bucket_server.uri("model"))
    bucket_server.put("model/a.safetensors", b"")
    assert check_model(bucket_server.uri("model")) is None
    bucket_server.put("data/a.jsonl", b"")
    assert check_data(bucket_server.uri("data/*.jsonl")) is None
    with pytest.raises(ConfigError, match="is not there"):
        check_data(bucket_server.uri("none/*.jsonl"))
    assert check_model("pypi:something") is None
    with pytest.raises(ConfigError, match="neither"):
        check_data("not a data set")


def test_the_bucket_is_written_read_and_left_clean(bucket_server: BucketServer) -> None:  # noqa: F811
    check_bucket(bucket_server.uri("out"), write=True)
    assert bucket_server.names() == []


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/upload/"), ("GET", "/o/"), ("DELETE", "/o/"), ("GET", r"/o\?")]
)
def test_each_right_to_the_bucket_is_needed(
    bucket_server: BucketServer,  # noqa: F811
    method: str,
    path: str,
) -> None:
    bucket_server.faults.add(method, path, Fault(status=403), times=None)
    with pytest.raises(AccessError):
        check_bucket(bucket_server.uri("out"), write=True)


def run_file(config: RunConfig, folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def test_the_program_says_one_line_and_ends_with_the_code(
    hub: Hub,
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(run_file(config(bucket_server), tmp_path))]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["packtrain"], told["exit_code"]) == ("preflight", 0)
    assert main([str(run_file(config(bucket_server, model__source="org/gated"), tmp_path))]) == 77
    told = json.loads(capsys.readouterr().out)
    assert [check["ok"] for check in told["checks"]] == [False, True, True, True]
    assert "gated" in told["checks"][0]["message"]


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["a", "b"], 2), (["/none/run.yaml"], 78)])
def test_a_program_that_is_called_wrong_says_so_as_well(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert json.loads(capsys.readouterr().out)["exit_code"] == code


def test_rights_that_are_on_their_way_are_waited_for(hub: Hub, bucket_server: BucketServer) -> None:  # noqa: F811
    slept: list[float] = []
    bucket_server.faults.add("POST", "/upload/", Fault(status=403), times=2)
    answers = ask(config(bucket_server), 60.0, clock=lambda: sum(slept), sleep=slept.append)
    assert all(each.error is None for each in answers)
    assert slept == [10.0]


def test_waiting_has_a_limit_and_a_gate_is_not_waited_for(hub: Hub, bucket_server: BucketServer) -> None:  # noqa: F811
    slept: list[float] = []
    bucket_server.faults.add("POST", "/upload/", Fault(status=403), times=None)
    answers = ask(config(bucket_server), 30.0, clock=lambda: sum(slept), sleep=slept.append)
    assert isinstance(answers[-1].error, AccessError)
    assert slept == [10.0] * 3
    bucket_server.faults.clear()
    slept.clear()
    gated = config(bucket_server, model__source="org/gated")
    assert ask(gated, 60.0, clock=lambda: sum(slept), sleep=slept.append)[0].error is not None
    assert slept == []
