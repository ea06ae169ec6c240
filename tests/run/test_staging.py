"""The base and the data staged into a bucket from a stand-in hub, and a run that needs the bucket alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from standins.bucket import BucketServer, Fault, bucket_server
from standins.hub import Hub, point_here, serve_hub
from standins.hub_files import commit_of
from tiny import make_tiny_base
from whole_run import facts, make_job, packtrain, write_rows

from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, StorageError, UnavailableError
from packtrain.hub.staged import STAGED
from packtrain.model.weights import resolve_base

__all__ = ["bucket_server"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("base") / "b")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "own.py").write_text("raise SystemExit")
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "d"
    folder.mkdir()
    write_rows(folder / "train.jsonl", facts(24))
    write_rows(folder / "test.jsonl", facts(4, first=50))
    (folder / "README.md").write_text("# Facts\n")
    return folder


@pytest.fixture
def hub(base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub({"o/m": base}, {"o/d": rows}) as hub:
        point_here(monkeypatch, hub, tmp_path / "home")
        yield hub


@pytest.fixture
def run_file(tmp_path: Path, bucket_server: BucketServer) -> Path:
    data = {"train": "o/d", "validation": 0.15, "max_length": 256}
    output = {"uri": bucket_server.uri("final")}
    job = make_job(tmp_path / "job", Path("o/m"), data=data, output=output)
    return job.run_file


def in_a_pod(monkeypatch: pytest.MonkeyPatch, place: str, home: Path) -> None:
    """Another machine: nothing in the cache, no hub."""
    shutil.rmtree(home, ignore_errors=True)
    point_here(monkeypatch, "http://127.0.0.1:9", home)
    monkeypatch.setenv(STAGED, place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def names(server: BucketServer) -> set[str]:
    return {name.removeprefix("packtrain-staged/") for name in server.buckets[server.bucket]}


def test_what_is_copied_and_what_is_said(
    hub: Hub,
    run_file: Path,
    bucket_server: BucketServer,
    base: Path,
    rows: Path,
) -> None:
    ended = packtrain("stage", str(run_file), "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    assert said["keys"] == {
        "model.revision": commit_of(base),
        "data.revision": commit_of(rows),
        "cluster.staged": bucket_server.uri("packtrain-staged"),
    }
    model, data = f"models--o--m/{commit_of(base)}/", f"datasets--o--d/{commit_of(rows)}/"
    assert names(bucket_server) == {
        *(f"{place}{name}" for place in (model, data) for name in ("staged.json", "tree.json")),
        *(f"{model}files/{name}" for name in ("config.json", "generation_config.json", "model.safetensors")),
        *(f"{model}files/{name}" for name in ("tokenizer.json", "tokenizer_config.json")),
        f"{model}files/special_tokens_map.json",
        *(f"{data}files/{name}" for name in ("README.md", "train.jsonl")),
    }
    assert all(each["sent"] == each["bytes"] > 0 for each in said["copied"])

    again = packtrain("stage", str(run_file))
    assert again.code == 0, again.err
    assert "0.00 GB of them new; verified" in again.out
    assert f"cluster.staged: {bucket_server.uri('packtrain-staged')}" in again.out
    found = json.loads(packtrain("stage", str(run_file), "--json").out)
    assert [each["sent"] for each in found["copied"]] == [0, 0]


def test_a_mixture_is_staged_source_by_source(hub: Hub, run_file: Path, rows: Path) -> None:
    train = "[{source: 'o/d', weight: 2}, {source: 'o/d:test', weight: 0.5}]"
    ended = packtrain("stage", str(run_file), "-s", f"data.train={train}", "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    revisions = {key: value for key, value in said["keys"].items() if key.startswith("data.")}
    assert revisions == {f"data.train[{number}].revision": commit_of(rows) for number in range(2)}
    [copied] = [each for each in said["copied"] if each["repository"] == "o/d"]
    assert copied["files"] == 3  # the card and both splits


def test_a_run_from_the_bucket_alone(
    hub: Hub,
    run_file: Path,
    bucket_server: BucketServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = json.loads(packtrain("stage", str(run_file), "--json").out)["keys"]
    hub.requests.clear()
    in_a_pod(monkeypatch, keys["cluster.staged"], tmp_path / "pod")
    options = [word for key, value in keys.items() for word in ("-s", f"{key}={value}")]
    ended = packtrain("train", str(run_file), "--run-dir", str(tmp_path / "run"), *options)
    assert ended.code == 0, ended.err
    assert "copying o/m from gs://" in ended.err
    assert hub.requests == []
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert (receipt["base"]["identity"], receipt["base"]["revision"]) == ("o/m", keys["model.revision"])
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "o/m"


def staged_base(run_file: Path) -> tuple[ModelConfig, str]:
    keys = json.loads(packtrain("stage", str(run_file), "--json").out)["keys"]
    return ModelConfig(source="o/m", revision=keys["model.revision"]), keys["cluster.staged"]


def test_a_copy_that_was_cut_goes_on(
    hub: Hub,
    run_file: Path,
    bucket_server: BucketServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket_server.faults.add("POST", r"upload/.*", Fault(status=403), times=None, skip=3)
    cut = packtrain("stage", str(run_file))
    assert cut.code == 77 and "Traceback" not in cut.err
    there = names(bucket_server)
    assert there and not any(name.endswith("staged.json") for name in there)
    bucket_server.faults.clear()
    model, place = staged_base(run_file)
    in_a_pod(monkeypatch, place, tmp_path / "pod")
    assert (resolve_base(model).folder / "model.safetensors").exists()


def test_what_is_not_what_was_staged_is_refused(
    hub: Hub,
    run_file: Path,
    bucket_server: BucketServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from packtrain.storage import open_storage

    model, place = staged_base(run_file)
    name = f"models--o--m/{model.revision}/files/model.safetensors"
    storage = open_storage(place)
    storage.write(name, b"another")
    storage.close()
    in_a_pod(monkeypatch, place, tmp_path / "pod")
    with pytest.raises(StorageError, match=r"model\.safetensors: is not what was staged") as caught:
        resolve_base(model)
    assert "packtrain stage RUN" in (caught.value.hint or "")
    assert not list((tmp_path / "pod").rglob("model.safetensors"))


def test_another_commit_than_the_staged_one(
    hub: Hub,
    run_file: Path,
    bucket_server: BucketServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, place = staged_base(run_file)
    in_a_pod(monkeypatch, place, tmp_path / "pod")
    with pytest.raises(ConfigError, match=r"o/m at 000000000000 is not in gs://"):
        resolve_base(ModelConfig(source="o/m", revision="0" * 40))
    with pytest.raises(UnavailableError):
        resolve_base(ModelConfig(source="o/m"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"output": {}}, "there is no bucket to copy to"),
        ({"model": {"source": "."}}, "is on this machine, where no pod can read it"),
        ({"data": {"train": "train.jsonl"}}, "is on this machine, where no pod can read it"),
    ],
)
def test_what_cannot_be_staged(hub: Hub, run_file: Path, keys: dict[str, dict[str, str]], words: str) -> None:
    content = yaml.safe_load(run_file.read_text())
    run_file.write_text(yaml.safe_dump(content | keys))
    refused = packtrain("stage", str(run_file))
    assert refused.code == 78
    assert words in refused.err


def test_a_bucket_has_nothing_to_copy_of(
    hub: Hub,
    run_file: Path,
    bucket_server: BucketServer,
) -> None:
    data = {"data.train": "gs://elsewhere/rows.jsonl", "model.source": "gs://elsewhere/base"}
    overrides = [word for key, value in data.items() for word in ("-s", f"{key}={value}")]
    ended = packtrain("stage", str(run_file), *overrides)
    assert ended.code == 0, ended.err
    assert "the base is in a bucket already: gs://elsewhere/base" in ended.out
    assert names(bucket_server) == set()


def test_pods_read_the_copies() -> None:
    from packtrain.config import ClusterConfig
    from packtrain.kube.pod import staged

    assert staged(ClusterConfig()) == ()
    variables = {each.name: each.value for each in staged(ClusterConfig(staged="gs://b/packtrain-staged"))}
    assert variables == {STAGED: "gs://b/packtrain-staged", "HF_HUB_OFFLINE": "1"}
