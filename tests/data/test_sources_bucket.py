"""Data in a bucket: an object, a prefix, a glob; downloaded once for each generation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from standins.bucket import BucketServer, bucket_server

from packtrain.data.rows import Row
from packtrain.data.sources import Source, open_source
from packtrain.errors import ConfigError, DataError

__all__ = ["bucket_server"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(server: BucketServer, name: str, *values: int) -> None:
    server.put(name, "".join(f"{json.dumps({'a': value})}\n" for value in values).encode())


def values(source: Source) -> list[int]:
    return [row.fields["a"] for row in source if isinstance(row, Row)]


def test_an_object_a_prefix_and_globs(bucket_server: BucketServer) -> None:
    put(bucket_server, "d/b.jsonl", 3)
    put(bucket_server, "d/a/x.jsonl", 1, 2)
    put(bucket_server, "d/README.md", 9)
    put(bucket_server, "dd/other.jsonl", 9)
    put(bucket_server, "top.jsonl", 4)
    uri = bucket_server.uri
    assert values(open_source(uri("d/b.jsonl"))) == [3]
    assert values(open_source(uri("top.jsonl"))) == [4]
    assert values(open_source(uri("d"))) == [1, 2, 3]
    assert values(open_source(uri("d/"))) == [1, 2, 3]
    assert values(open_source(uri("d/*.jsonl"))) == [3]
    assert values(open_source(uri("d/**/*.jsonl"))) == [1, 2, 3]
    assert values(open_source(uri("d/*/x.jsonl"))) == [1, 2]
    assert values(open_source([uri("top.jsonl"), uri("d/b.*")])) == [4, 3]
    places = [item.place for item in open_source(uri("d/a/x.jsonl"))]
    assert places == [uri("d/a/x.jsonl:1"), uri("d/a/x.jsonl:2")]


def test_an_object_is_downloaded_again_only_when_it_has_changed(
    bucket_server: BucketServer, cache: Path
) -> None:
    uri = bucket_server.uri("x.jsonl")
    put(bucket_server, "x.jsonl", 1)
    first = open_source(uri)
    assert open_source(uri).files == first.files
    put(bucket_server, "x.jsonl", 2)
    second = open_source(uri)
    assert values(second) == [2]
    assert values(first) == [1], "what an earlier run reads stays as it was"
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 2
    assert first.fingerprint() != second.fingerprint()


def test_nothing_there_and_nothing_to_read(bucket_server: BucketServer) -> None:
    put(bucket_server, "d/README.md", 1)
    for name in ("absent.jsonl", "absent", "d/*.jsonl"):
        with pytest.raises(ConfigError, match=r"nothing is there$"):
            open_source(bucket_server.uri(name))
    with pytest.raises(DataError, match=r"has no data file among 1 objects$"):
        open_source(bucket_server.uri("d"))
