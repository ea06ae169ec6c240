"""Data elsewhere that is read where it lies: by ranges, only as far as it is needed, and never copied."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from standins.bucket import BucketServer, Fault, bucket_server
from standins.hub import Hub, Repo, point_here, serve_hub
from standins.hub_files import commit_of

from packtrain.data import ranged
from packtrain.data.in_place import patient
from packtrain.data.ranged import Afar
from packtrain.data.rows import Row
from packtrain.data.sources import Source, local_bytes, open_source
from packtrain.errors import ConfigError, DataError, StorageError, UnavailableError
from packtrain.hub.staged import STAGED
from packtrain.storage import open_storage
from packtrain.storage.retry import RetryPolicy

__all__ = ["bucket_server"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranged, "BLOCK", 4096)
    return tmp_path / "cache"


def lines(count: int) -> bytes:
    return b"".join(json.dumps({"a": number}).encode() + b"\n" for number in range(count))


def values(source: Source, most: int | None = None) -> list[int]:
    return [row.fields["a"] for row in islice(source, most) if isinstance(row, Row)]


def ranges(server: BucketServer) -> int:
    return sum("alt=media" in target for method, target in server.log if method == "GET")


def test_of_an_object_only_what_is_needed_is_asked_for(bucket_server: BucketServer, cache: Path) -> None:
    bucket_server.put("x.jsonl", lines(20_000))
    source = open_source(bucket_server.uri("x.jsonl"), in_place=True)
    assert ranges(bucket_server) == 0
    assert values(source, 10) == list(range(10))
    assert ranges(bucket_server) == 1
    assert values(source) == list(range(20_000))
    assert [item.place for item in islice(source, 1)] == [bucket_server.uri("x.jsonl:1")]
    assert not [path for path in cache.rglob("*") if path.is_file()]
    description = source.description
    assert description["files"][0].keys() == {"name", "bytes", "identity"}
    assert source.files[0].identity.startswith("crc32c ")


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "parquet", "parquet.gz", "json"])
def test_every_kind_of_file(kind: str, bucket_server: BucketServer) -> None:
    table = pyarrow.Table.from_pylist([{"a": number} for number in range(3000)])
    written = io.BytesIO()
    parquet.write_table(table, written, row_group_size=500)
    content = {
        "jsonl.gz": gzip.compress(lines(3000)),
        "jsonl.zst": pyarrow.Codec("zstd").compress(lines(3000), asbytes=True),
        "parquet": written.getvalue(),
        "parquet.gz": gzip.compress(written.getvalue()),
        "json": lines(3000),
    }
    bucket_server.put(f"d/x.{kind}", content[kind])
    assert values(open_source(bucket_server.uri("d"), in_place=True)) == list(range(3000))


def test_what_fails_for_a_moment_is_asked_for_again(bucket_server: BucketServer) -> None:
    bucket_server.put("x.jsonl", lines(2000))
    bucket_server.faults.add("GET", "alt=media", Fault(status=503), times=1, skip=1)
    bucket_server.faults.add("GET", "alt=media", Fault(cut_answer=40), times=1)
    source = open_source(bucket_server.uri("x.jsonl"), in_place=True)
    assert values(source) == list(range(2000))
    assert bucket_server.faults.hits == 2


def test_an_object_that_is_replaced_while_it_is_read_is_named(bucket_server: BucketServer) -> None:
    bucket_server.put("x.jsonl", lines(2000))
    rows = iter(open_source(bucket_server.uri("x.jsonl"), in_place=True))
    next(rows)
    bucket_server.put("x.jsonl", lines(2001))
    with pytest.raises(ConfigError, match=r"x.jsonl: was replaced or removed while it was read"):
        list(rows)


def test_a_cut_file_is_damaged_and_what_is_not_there_is_named(bucket_server: BucketServer) -> None:
    bucket_server.put("x.jsonl.gz", gzip.compress(lines(3000))[:-20])
    with pytest.raises(DataError, match=r"x.jsonl.gz: is cut or damaged, after \d+ rows"):
        values(open_source(bucket_server.uri("x.jsonl.gz"), in_place=True))
    with pytest.raises(ConfigError, match="nothing is there"):
        open_source(bucket_server.uri("other"), in_place=True)


def test_a_folder_is_read_by_ranges_like_a_bucket(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    storage = open_storage(tmp_path)
    info = storage.stat("x")
    assert info is not None
    assert storage.read_range("x", 3, 4, info.generation) == b"3456"
    with pytest.raises(StorageError, match="changed while it was read"):
        storage.read_range("x", 8, 4, info.generation)


def test_a_file_elsewhere_can_be_sought_in() -> None:
    content = bytes(range(256)) * 100
    asked: list[tuple[int, int]] = []

    def read(start: int, count: int) -> bytes:
        asked.append((start, count))
        return content[start : start + count]

    with Afar(len(content), "x", read).open() as file:
        assert file.seek(-3, io.SEEK_END) == len(content) - 3
        assert file.read() == content[-3:]
        file.seek(1000)
        assert file.read(5000) == content[1000:6000]
        assert file.read(0) == b""
    assert sum(count for _, count in asked) < 20_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train-1.jsonl").write_bytes(lines(2000))
    (folder / "train-2.jsonl").write_bytes(lines(5))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    with serve_hub(
        datasets={"org/rows": Repo({"main": folder}), "org/closed": Repo({"main": folder}, gated=True)}
    ) as made:
        point_here(monkeypatch, made, tmp_path / "home")
        yield made


def asked_for(hub: Hub, name: str) -> int:
    return sum(request.startswith("GET") and request.endswith(name) for request in hub.requests)


def test_files_of_the_hub_are_read_there(hub: Hub, tmp_path: Path) -> None:
    source = open_source("org/rows", in_place=True)
    commit = commit_of(tmp_path / "rows")
    assert source.revision == commit
    assert asked_for(hub, "train-1.jsonl") == 0
    assert values(source, 10) == list(range(10))
    assert asked_for(hub, "train-1.jsonl") == 1
    assert values(source) == [*range(2000), *range(5)]
    assert [item.place for item in islice(source, 1)] == ["org/rows/train-1.jsonl:1"]
    assert not list((tmp_path / "home").rglob("train-*"))
    assert source.files[0].identity == f"{commit}/train-1.jsonl"


def test_a_hub_that_is_away_for_a_moment_and_for_long(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packtrain.data.in_place.RetryPolicy", lambda: RetryPolicy(attempts=1))
    source = open_source("org/rows", in_place=True)
    hub.fail("train-1", 503, times=2)
    assert len(values(source)) == 2005
    hub.fail("train-2", 503)
    with pytest.raises(UnavailableError, match=r"answers with status 503, asked for the data set org/rows"):
        values(source)


def test_a_gated_data_set_is_refused_before_anything_is_read(hub: Hub) -> None:
    with pytest.raises(Exception, match="is gated and there is no Hugging Face token"):
        open_source("org/closed", in_place=True)


def test_what_the_cache_has_is_read_there_and_nothing_else_when_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_source("org/rows", in_place=True)
    whole = open_source("org/rows")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert values(open_source("org/rows", in_place=True)) == values(whole)
    for file in whole.files:
        file.path.unlink()
    monkeypatch.setattr("packtrain.data.in_place.RetryPolicy", lambda: RetryPolicy(attempts=1))
    with pytest.raises(
        UnavailableError, match=r"org/rows.* is not .*in the cache and the Hugging Face hub is not asked"
    ):
        values(open_source("org/rows", in_place=True))
    assert len(hub.requests) == before


def test_staged_copies_are_read_in_their_bucket(
    hub: Hub, bucket_server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_source("org/rows", in_place=True)
    commit = commit_of(tmp_path / "rows")
    place = f"staged/datasets--org--rows/{commit}/files"
    bucket_server.put(f"{place}/train-1.jsonl", lines(30))
    bucket_server.put(f"{place}/train-2.jsonl", lines(3))
    monkeypatch.setenv(STAGED, bucket_server.uri("staged"))
    source = open_source("org/rows", revision=commit, in_place=True)
    assert values(source) == [*range(30), *range(3)]
    assert asked_for(hub, "train-1.jsonl") == 0


def test_waiting_has_a_limit_and_other_errors_are_not_tried_again() -> None:
    slept: list[float] = []
    calls = []

    def away(start: int, count: int) -> bytes:
        calls.append(start)
        if len(calls) < 3 or start:
            raise UnavailableError("away")
        return b"x" * count

    policy = RetryPolicy(attempts=4, sleep=slept.append)
    assert patient(away, policy)(0, 3) == b"xxx"
    assert len(slept) == 2
    with pytest.raises(UnavailableError):
        patient(away, policy)(1, 3)
    assert len(slept) == 5

    def broken(start: int, count: int) -> bytes:
        raise StorageError("the disk is gone")

    with pytest.raises(StorageError):
        patient(broken, policy)(0, 1)
    assert len(slept) == 5


def test_the_size_of_local_data_is_known_without_asking_anybody(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 100)
    (tmp_path / "b.jsonl").write_bytes(b"x" * 20)
    assert local_bytes(str(tmp_path)) == 120
    assert local_bytes([str(tmp_path / "*.jsonl"), "gs://no-such/rows.jsonl", "org/rows"]) == 120
    assert local_bytes(str(tmp_path / "absent.jsonl")) == 0
    shutil.rmtree(tmp_path)
    assert local_bytes(str(tmp_path / "*.jsonl")) == 0
