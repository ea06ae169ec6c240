"""How a run is found in a bucket: one winner of a name, a new machine with nothing, --new."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import QUICK
from standins.bucket import BucketServer, Fault, bucket_server  # noqa: F401

from packtrain.errors import ConflictError, StorageError
from packtrain.run.mirror import (
    claim_place,
    claim_run,
    default_run_uri,
    find_run,
    keep_config,
    open_mirror,
    restore,
    runs_uri,
)
from packtrain.rundir import EventWriter, RunDir, RunIdentity, history, write_atomically
from packtrain.storage.gcs import GcsStorage
from packtrain.storage.local import LocalStorage

ONE = RunIdentity("tiny", "RUN1", "0" * 64, {"train": {"epochs": 1.0}}, "2026-11-24T05:09:42.123Z")
TWO = replace(ONE, run_id="RUN2")
RUNS = "packtrain/tiny"


@pytest.fixture
def runs(bucket_server: BucketServer) -> Iterator[GcsStorage]:  # noqa: F811
    storage = GcsStorage(bucket_server.uri(RUNS), retries=QUICK)
    yield storage
    storage.close()


@pytest.fixture
def place(bucket_server: BucketServer) -> Iterator[GcsStorage]:  # noqa: F811
    storage = GcsStorage(bucket_server.uri(f"{RUNS}/RUN1"), retries=QUICK)
    yield storage
    storage.close()


def test_places() -> None:
    assert runs_uri("gs://b/final_model", "tiny") == "gs://b/packtrain/tiny"
    assert default_run_uri("gs://b/a/b", "tiny", "RUN1") == "gs://b/packtrain/tiny/RUN1"
    assert default_run_uri("gs://b", "tiny", "RUN1") == "gs://b/packtrain/tiny/RUN1"
    for folder in (None, "out", "/tmp/out"):
        assert runs_uri(folder, "tiny") is default_run_uri(folder, "tiny", "RUN1") is None


def test_the_first_has_the_name(runs: GcsStorage, bucket_server: BucketServer) -> None:  # noqa: F811
    assert find_run(runs) is None
    assert claim_run(runs, ONE) == ONE
    assert claim_run(runs, TWO) == find_run(runs) == ONE
    assert bucket_server.names() == [f"{RUNS}/RUN1/run.json", f"{RUNS}/current.json"]
    assert json.loads(bucket_server.data(f"{RUNS}/current.json")) == {
        "run_id": "RUN1",
        "config_hash": "0" * 64,
    }


def test_of_many_at_once_one_wins_and_all_agree(bucket_server: BucketServer) -> None:  # noqa: F811
    barrier, agreed = threading.Barrier(4), []

    def start(number: int) -> None:
        storage = GcsStorage(bucket_server.uri(RUNS), retries=QUICK)
        barrier.wait()
        agreed.append(claim_run(storage, replace(ONE, run_id=f"RUN{number}")).run_id)
        storage.close()

    threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(agreed) == 4 and len(set(agreed)) == 1
    assert bucket_server.names() == [f"{RUNS}/{agreed[0]}/run.json", f"{RUNS}/current.json"]


def test_new_takes_the_name_and_leaves_the_old_run(runs: GcsStorage) -> None:
    claim_run(runs, ONE)
    assert claim_run(runs, TWO, new=True) == find_run(runs) == TWO
    assert runs.stat("RUN1/run.json") is not None


def test_two_new_at_once(runs: GcsStorage, bucket_server: BucketServer) -> None:  # noqa: F811
    claim_run(runs, ONE)
    other = replace(ONE, run_id="RUN3")

    def overtake() -> None:
        bucket_server.put(f"{RUNS}/RUN3/run.json", other.to_json())
        bucket_server.put(f"{RUNS}/current.json", b'{"run_id": "RUN3", "config_hash": ""}')

    bucket_server.faults.add("POST", "upload", Fault(after=overtake))
    with pytest.raises(ConflictError, match="took this name at the same moment"):
        claim_run(runs, TWO, new=True)
    assert find_run(runs) == other
    assert runs.stat("RUN2/run.json") is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"other": 1}', b"\xff"])
def test_a_pointer_that_says_nothing_is_told(
    runs: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
    data: bytes,
) -> None:
    bucket_server.put(f"{RUNS}/current.json", data)
    with pytest.raises(StorageError, match=r"current.json: does not say which run") as caught:
        find_run(runs)
    assert caught.value.hint is not None and "--new" in caught.value.hint
    assert claim_run(runs, ONE, new=True) == ONE


def test_a_pointer_to_nothing_is_told(runs: GcsStorage, bucket_server: BucketServer) -> None:  # noqa: F811
    claim_run(runs, ONE)
    runs.delete("RUN1/run.json")
    with pytest.raises(StorageError, match=r"RUN1/run\.json: is missing"):
        find_run(runs)
    bucket_server.put(f"{RUNS}/RUN1/run.json", b"torn")
    with pytest.raises(StorageError, match="is not a run's identity"):
        find_run(runs)


def test_a_place_of_the_run_files_own(place: GcsStorage) -> None:
    assert claim_place(place, ONE) == ONE
    assert claim_place(place, TWO) == ONE


def test_a_folder_with_nothing_gets_what_an_attempt_needs(place: GcsStorage, tmp_path: Path) -> None:
    first = RunDir(tmp_path / "one")
    with EventWriter(first.events_file, 1) as events:
        events.write("start", 0)
    write_atomically(first.config_file, b"name: tiny\n")
    claim_place(place, ONE)
    keep_config(first, place)
    place.write("events/000001-0000000000.jsonl", first.events_file.read_bytes())
    second = RunDir(tmp_path / "two")
    for _ in range(2):
        restore(second, place)
        assert second.identity() == ONE
        assert second.config_file.read_bytes() == b"name: tiny\n"
        assert [event.kind for event in history(second.events_file)] == ["start"]


def test_a_bucket_with_nothing_is_no_error(place: GcsStorage, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "one")
    restore(run_dir, place)
    assert not run_dir.path.exists()


def test_the_folder_of_another_run_is_refused(place: GcsStorage, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    write_atomically(run_dir.identity_file, TWO.to_json())
    claim_place(place, ONE)
    with pytest.raises(ConflictError, match=r"holds the run RUN2, but gs://.* holds RUN1"):
        restore(run_dir, place)


def test_a_config_that_is_the_same_is_not_written_again(place: GcsStorage, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    write_atomically(run_dir.config_file, b"name: tiny\n")
    keep_config(run_dir, place)
    first = place.stat("config.yaml")
    keep_config(run_dir, place)
    assert place.stat("config.yaml") == first
    write_atomically(run_dir.config_file, b"name: tiny # pinned\n")
    keep_config(run_dir, place)
    assert place.read("config.yaml") == b"name: tiny # pinned\n"


def test_a_mirror_gives_up_early(bucket_server: BucketServer, tmp_path: Path) -> None:  # noqa: F811
    storage = open_mirror(bucket_server.uri(RUNS))
    storage.write("a", b"1")
    assert bucket_server.names() == [f"{RUNS}/a"]
    storage.close()
    assert isinstance(open_mirror(str(tmp_path)), LocalStorage)
