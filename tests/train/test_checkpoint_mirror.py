"""Checkpoints in a bucket: whole ones only, the newest found from anywhere, old ones removed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import PLACE, QUANTUM, connect, in_bucket, make_store, snapshot, step_of, until
from standins.bucket import BucketServer, Fault, bucket_server  # noqa: F401

from packtrain.storage.gcs import GcsStorage
from packtrain.train.checkpoint import CheckpointStore


@pytest.fixture
def remote(bucket_server: BucketServer) -> Iterator[GcsStorage]:  # noqa: F811
    storage = connect(bucket_server)
    yield storage
    storage.close()


def wait_for(gate: threading.Event) -> None:
    assert gate.wait(20)


def save(store: CheckpointStore, *steps: int, size: int = 64) -> None:
    """Each in the bucket before the next."""
    for step in steps:
        assert store.save(snapshot(step, size), wait=True)
        until(lambda: store._to_mirror is None)


def mirrored(folder: Path, remote: GcsStorage, *steps: int, attempt: int = 1, keep: int = 2) -> None:
    store = make_store(folder, remote=remote, attempt=attempt, keep=keep)
    save(store, *steps)
    assert store.close(wait_for_mirror=True, timeout=20)


def test_a_machine_that_has_nothing_goes_on_from_the_bucket(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    store = make_store(tmp_path / "one", remote=remote)
    save(store, 4, size=QUANTUM)
    assert store.close(wait_for_mirror=True, timeout=20)
    assert [(saved.step, saved.mirrored) for saved in store.poll()] == [(4, False), (4, True)]
    other = make_store(tmp_path / "two", remote=remote)
    path = other.newest()
    assert step_of(path) == 4 and path == tmp_path / "two/step-4"
    assert {file.name for file in path.iterdir()} == {
        *("adapter.safetensors", "optimizer.safetensors", "state.json", "commit.json")
    }
    for file in path.iterdir():
        assert file.read_bytes() == bucket_server.data(f"{PLACE}/checkpoints/step-4/{file.name}")
    other.close(wait_for_mirror=False, timeout=0)


def test_the_commit_is_last_and_after_the_events(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    seen: list[list[str]] = []
    store = make_store(
        tmp_path, remote=remote, mirror_events=lambda: seen.append(bucket_server.names(f"{PLACE}/"))
    )
    save(store, 1)
    assert store.close(wait_for_mirror=True, timeout=20)
    (before,) = seen
    assert [name.rpartition("/")[2] for name in before] == [
        *("adapter.safetensors", "optimizer.safetensors", "state.json")
    ]
    assert in_bucket(bucket_server) == ["step-1"]


def test_old_ones_and_incomplete_ones_go(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    bucket_server.put(f"{PLACE}/checkpoints/step-99/adapter.safetensors", b"of an upload that was cut")
    bucket_server.put(f"{PLACE}/checkpoints/notes/readme.txt", b"not ours")
    mirrored(tmp_path, remote, 1, 2, 3)
    assert in_bucket(bucket_server) == ["step-2", "step-3"]
    names = bucket_server.names(f"{PLACE}/checkpoints/")
    assert len(names) == 2 * 4 + 1 and f"{PLACE}/checkpoints/notes/readme.txt" in names


def test_the_highest_attempt_wins_wherever_it_is(tmp_path: Path, remote: GcsStorage) -> None:
    mirrored(tmp_path / "one", remote, 10, 20)
    mirrored(tmp_path / "two", remote, 12, attempt=2, keep=9)
    for folder, expected in (("one", 12), ("two", 12)):
        store = make_store(tmp_path / folder, remote=remote)
        assert step_of(store.newest()) == expected
        assert store.close(wait_for_mirror=True, timeout=20)
    alone = make_store(tmp_path / "one", attempt=3)
    assert alone.save(snapshot(7), wait=True)
    store = make_store(tmp_path / "one", remote=remote, attempt=4)
    assert step_of(store.newest()) == 7
    store.close(wait_for_mirror=True, timeout=20)


def test_what_the_last_attempt_could_not_copy_is_copied_by_the_next(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    assert make_store(tmp_path).save(snapshot(3), wait=True)
    store = make_store(tmp_path, remote=remote, attempt=2)
    assert step_of(store.newest()) == 3
    assert store.close(wait_for_mirror=True, timeout=20)
    assert in_bucket(bucket_server) == ["step-3"]


def test_a_step_of_an_earlier_attempt_is_replaced_whole(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    mirrored(tmp_path / "one", remote, 5)
    mirrored(tmp_path / "two", remote, 5, attempt=2)
    commit = json.loads(bucket_server.data(f"{PLACE}/checkpoints/step-5/commit.json"))
    assert commit["attempt"] == 2
    store = make_store(tmp_path / "three", remote=remote)
    assert step_of(store.newest()) == 5
    store.close(wait_for_mirror=False, timeout=0)


def test_what_was_superseded_before_its_turn_is_dropped(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    gate = threading.Event()
    bucket_server.faults.add("GET", "checkpoints", Fault(before=lambda: wait_for(gate)))
    store = make_store(tmp_path, remote=remote)
    for step in (1, 2, 3, 4):
        assert store.save(snapshot(step), wait=True)
        store._urgent = False
    # The first is being copied: it stays on the disk, though others are newer.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3", "step-4"]
    gate.set()
    assert store.close(wait_for_mirror=True, timeout=20)
    copied = [saved.step for saved in store.poll() if saved.mirrored]
    assert copied[-1] == 4 and not {2, 3} & set(copied)
    assert "step-4" in in_bucket(bucket_server)


def test_a_stop_gives_up_the_old_one_for_the_new(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    gate = threading.Event()
    bucket_server.faults.add("PUT", "upload_id", Fault(after=lambda: wait_for(gate)))
    store = make_store(tmp_path, remote=remote)
    assert store.save(snapshot(1, size=QUANTUM), wait=False)
    until(lambda: bucket_server.faults.hits == 1)
    assert store.save(snapshot(2), wait=True)
    gate.set()
    assert store.close(wait_for_mirror=True, timeout=20)
    assert [saved.step for saved in store.poll() if saved.mirrored] == [2]
    assert in_bucket(bucket_server) == ["step-2"]
    assert not bucket_server.names(f"{PLACE}/checkpoints/step-1"), "what came of it is removed"


def test_a_damaged_one_on_the_disk_comes_from_the_bucket(tmp_path: Path, remote: GcsStorage) -> None:
    mirrored(tmp_path, remote, 1, 2)
    (tmp_path / "step-2/state.json").unlink()
    store = make_store(tmp_path, remote=remote, attempt=2)
    assert step_of(store.newest()) == 2
    store.close(wait_for_mirror=False, timeout=0)


def test_a_copy_that_is_there_is_not_made_again(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    mirrored(tmp_path, remote, 1)
    bucket_server.log.clear()
    store = make_store(tmp_path, remote=remote, attempt=1)
    assert step_of(store.newest()) == 1
    assert store.close(wait_for_mirror=True, timeout=20)
    assert {method for method, _ in bucket_server.log} == {"GET"}
