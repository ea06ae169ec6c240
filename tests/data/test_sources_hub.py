"""Data sets of the hub: pinned to a commit, split by card or names, from the cache when offline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standins.hub import Hub, Repo, point_here, serve_hub
from standins.hub_files import commit_of

from packtrain.data.remote import HubId, files_of_split, glob_matches
from packtrain.data.rows import Row
from packtrain.data.sources import Source, open_source
from packtrain.errors import AccessError, ConfigError, DataError, PacktrainError, UnavailableError

CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/part-*}
  - {split: test, path: main/held-out.jsonl}
- config_name: socratic
  data_dir: socratic
---
# A data set
"""


def write(folder: Path, **files: list[int] | str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".").replace("_DASH_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            path.write_text("".join(json.dumps({"a": value}) + "\n" for value in content))
        else:
            path.write_text(content)
    return folder


def values(source: Source) -> list[int]:
    return [row.fields["a"] for row in source if isinstance(row, Row)]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {
        "dolly": write(tmp_path / "dolly", rows_DOT_jsonl=[1, 2], README_DOT_md="---\nlicense: mit\n---\n"),
        "dolly-new": write(tmp_path / "new", rows_DOT_jsonl=[3]),
        "cards": write(
            tmp_path / "cards",
            README_DOT_md=CARD,
            main__part_DASH_1_DOT_jsonl=[1],
            main__part_DASH_2_DOT_jsonl=[2],
            main__held_DASH_out_DOT_jsonl=[3],
            socratic__train_DOT_jsonl=[4],
            socratic__dev_DOT_jsonl=[5],
        ),
        "none": write(tmp_path / "none", README_DOT_md="nothing"),
    }


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    datasets: dict[str, Path | Repo] = {
        "org/dolly": Repo({"main": folders["dolly"], "v2": folders["dolly-new"]}),
        "org/cards": folders["cards"],
        "org/none": folders["none"],
        "org/gated": Repo({"main": folders["dolly"]}, gated=True),
        "org/private": Repo({"main": folders["dolly"]}, private=True),
    }
    with serve_hub(datasets=datasets) as hub:
        point_here(monkeypatch, hub, tmp_path / "home")
        yield hub


def test_rows_places_commit_and_description(hub: Hub, folders: dict[str, Path]) -> None:
    source = open_source("org/dolly")
    commit = commit_of(folders["dolly"])
    assert values(source) == [1, 2]
    assert [item.place for item in source] == ["org/dolly/rows.jsonl:1", "org/dolly/rows.jsonl:2"]
    assert source.revision == source.description["revision"] == commit
    assert [file["name"] for file in source.description["files"]] == ["org/dolly/rows.jsonl"]
    assert source.fingerprint() == open_source(str(folders["dolly"] / "rows.jsonl")).fingerprint()


def test_a_branch_and_a_commit(hub: Hub, folders: dict[str, Path]) -> None:
    assert values(open_source("org/dolly", revision="v2")) == [3]
    source = open_source("org/dolly", revision=commit_of(folders["dolly-new"]))
    assert values(source) == [3]
    assert source.revision == commit_of(folders["dolly-new"])


def test_what_is_pinned_and_cached_needs_no_hub(hub: Hub, folders: dict[str, Path]) -> None:
    commit = commit_of(folders["dolly"])
    open_source("org/dolly")
    hub.fail(".*", 503)
    assert values(open_source("org/dolly", revision=commit)) == [1, 2]
    assert values(open_source("org/dolly")) == [1, 2], "the cache stands in for a hub that is down"


def test_offline_with_and_without_a_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    open_source("org/dolly")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert values(open_source("org/dolly")) == [1, 2]
    with pytest.raises(UnavailableError, match="org/cards"):
        open_source("org/cards:main:train")
    assert len(hub.requests) == before


def test_a_cache_without_file_lists_is_completed(hub: Hub, folders: dict[str, Path], tmp_path: Path) -> None:
    commit = commit_of(folders["dolly"])
    open_source("org/dolly", revision=commit)
    (trees,) = (tmp_path / "home").rglob("trees")
    shutil.rmtree(trees)
    for rows in (tmp_path / "home").rglob("rows.jsonl"):
        rows.unlink()
    assert values(open_source("org/dolly", revision=commit)) == [1, 2]


def test_only_the_files_of_the_split_are_downloaded(hub: Hub) -> None:
    assert values(open_source("org/cards:main:train")) == [1, 2]
    assert not [request for request in hub.requests if "held-out" in request or "socratic" in request]
    assert values(open_source("org/cards:main:test")) == [3]
    assert values(open_source("org/cards:socratic:train")) == [4]
    assert values(open_source("org/cards:socratic:validation")) == [5]


@pytest.mark.parametrize(
    ("source", "revision", "kind", "words"),
    [
        ("org/absent", None, AccessError, "org/absent"),
        ("org/private", None, AccessError, "org/private"),
        ("org/gated", None, AccessError, "gated"),
        ("org/dolly", "v3", ConfigError, "'v3'"),
        ("org/dolly:test", None, ConfigError, "org/dolly: has no split test; it has train"),
        ("org/dolly:odd:train", None, ConfigError, "which of its configurations"),
        ("org/cards", None, ConfigError, "which of its configurations? It has main, socratic"),
        ("org/none", None, DataError, "org/none: has no data file that packtrain reads"),
    ],
)
def test_refusals(
    hub: Hub, source: str, revision: str | None, kind: type[PacktrainError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        open_source(source, revision=revision)
    assert words in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_down(hub: Hub, status: int) -> None:
    hub.fail(".*", status)
    with pytest.raises(UnavailableError):
        open_source("org/dolly")


def test_a_download_that_fails_in_the_middle(hub: Hub) -> None:
    hub.fail(r".*/resolve/.*/rows\.jsonl", 503)
    with pytest.raises(UnavailableError, match="org/dolly"):
        open_source("org/dolly")


@pytest.mark.parametrize(
    ("names", "configs", "wanted", "chosen"),
    [
        (["a.jsonl", "b.jsonl"], [], "o/n", ["a.jsonl", "b.jsonl"]),
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-0.parquet"],
            [],
            "o/n",
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ),
        (["train.jsonl", "dev.jsonl"], [], "o/n:validation", ["dev.jsonl"]),
        (["train/a.csv", "train/b.csv", "train/a.json"], [], "o/n", ["train/a.csv", "train/b.csv"]),
        (["constraints.jsonl"], [], "o/n", ["constraints.jsonl"]),
        (["a.jsonl", "b/c.jsonl"], [{"data_files": "*.jsonl"}], "o/n", ["a.jsonl"]),
        (["a.jsonl", "b/c.jsonl"], [{"data_files": ["**/*.jsonl"]}], "o/n", ["a.jsonl", "b/c.jsonl"]),
        (
            ["x.jsonl", "y.jsonl"],
            [{"data_files": {"train": "y.jsonl", "test": ["x.jsonl"]}}],
            "o/n",
            ["y.jsonl"],
        ),
        (
            ["x.jsonl", "y.jsonl"],
            [{"config_name": "only", "data_files": [{"split": "sft", "path": ["x.jsonl"]}]}],
            "o/n:sft",
            ["x.jsonl"],
        ),
        (["d/x.jsonl", "x.jsonl"], [{"data_dir": "d", "data_files": "x.jsonl"}], "o/n", ["d/x.jsonl"]),
    ],
)
def test_files_of_a_split(
    names: list[str], configs: list[dict[str, Any]], wanted: str, chosen: list[str]
) -> None:
    identifier = HubId.parse(wanted)
    assert identifier is not None
    assert files_of_split(names, configs, identifier) == chosen


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("o/n", HubId("o/n")),
        ("o/n.2-x:test", HubId("o/n.2-x", None, "test")),
        ("o/n:main:test", HubId("o/n", "main", "test")),
        ("n", None),
        ("a/b/c", None),
        ("o/n:", None),
        ("o/n:a:b:c", None),
    ],
)
def test_hub_ids(text: str, parsed: HubId | None) -> None:
    assert HubId.parse(text) == parsed


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.jsonl", "a.jsonl", True),
        ("*.jsonl", "d/a.jsonl", False),
        ("**/*.jsonl", "a.jsonl", True),
        ("**/*.jsonl", "d/e/a.jsonl", True),
        ("d/**", "d/e/a.jsonl", True),
        ("d/**", "e/a.jsonl", False),
        ("d/*/a.jsonl", "d/a.jsonl", False),
        ("d[1].jsonl", "d1.jsonl", True),
    ],
)
def test_globs_over_names(pattern: str, name: str, matches: bool) -> None:
    assert glob_matches(pattern, name) is matches
