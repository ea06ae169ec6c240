"""The rehearsal's bucket, asked by packtrain's own client: what that relies on holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from packtrain.errors import StorageError
from packtrain.kube.rehearsal.bucket import NAME, Bucket
from packtrain.storage import PreconditionError
from packtrain.storage.gcs import GcsStorage
from packtrain.storage.retry import RetryPolicy

QUICK = RetryPolicy(attempts=2, deadline=5.0, max_delay=0.05)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with Bucket() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def storage(bucket: Bucket) -> Iterator[GcsStorage]:
    opened = GcsStorage(f"gs://{NAME}/place", retries=QUICK, single_request=1 << 18, chunk=1 << 18)
    yield opened
    opened.close()


def test_what_is_written_is_read_listed_and_deleted(storage: GcsStorage, bucket: Bucket) -> None:
    written = storage.write("a/b c.json", b"content")
    assert storage.read("a/b c.json") == b"content"
    assert storage.stat("a/b c.json") == written
    assert storage.list("a/") == [written]
    assert storage.list("b/") == []
    assert bucket.below("place/") == {"a/b c.json": b"content"}
    storage.delete("a/b c.json")
    assert storage.stat("a/b c.json") is None
    storage.delete("a/b c.json")
    with pytest.raises(FileNotFoundError):
        storage.read("a/b c.json")


def test_preconditions(storage: GcsStorage) -> None:
    first = storage.write("x", b"1", if_generation=0)
    with pytest.raises(PreconditionError):
        storage.write("x", b"2", if_generation=0)
    second = storage.write("x", b"2", if_generation=first.generation)
    assert second.generation > first.generation
    with pytest.raises(PreconditionError):
        storage.delete("x", if_generation=first.generation)
    assert storage.read("x") == b"2"
    storage.delete("x", if_generation=second.generation)


def test_of_many_that_claim_a_name_one_wins(storage: GcsStorage) -> None:
    won: list[int] = []

    def claim(number: int) -> None:
        try:
            storage.write("claim", str(number).encode(), if_generation=0)
        except PreconditionError:
            return
        won.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read("claim") == str(won[0]).encode() and len(won) == 1


@pytest.mark.parametrize("size", [0, 1, (1 << 18) + 1, 3 << 18])
def test_files_go_up_in_parts_and_come_back(storage: GcsStorage, tmp_path: Path, size: int) -> None:
    (tmp_path / "up").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    done: list[int] = []
    storage.upload("file", tmp_path / "up", on_progress=done.append)
    storage.download("file", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    if size:
        assert done[-1] == size
    with pytest.raises(PreconditionError):
        storage.upload("file", tmp_path / "up", if_generation=0)


def test_other_buckets_are_not_there(bucket: Bucket) -> None:
    other = GcsStorage("gs://somebody-elses/place", retries=QUICK)
    with pytest.raises(StorageError):
        other.write("x", b"")
    other.close()


def test_two_rehearsals_have_the_same_generations() -> None:
    found = []
    for _ in range(2):
        with Bucket() as server:
            server.put("a", b"1")
            found.append(server.put("b", b"2").generation)
    assert found[0] == found[1]
