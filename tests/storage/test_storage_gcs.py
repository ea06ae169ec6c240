"""The bucket client where things go wrong, against the stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from standins.bucket import BucketServer, Fault

from packtrain.errors import AccessError, ConfigError, StorageError, UnavailableError
from packtrain.storage import open_storage
from packtrain.storage.base import PreconditionError
from packtrain.storage.checksums import crc32c_bytes
from packtrain.storage.gcs import GcsStorage, parse_uri

QUANTUM = 256 * 1024
BIG = os.urandom(5 * QUANTUM + 17)
NO_ANSWER = Fault(cut_answer=-1)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    return path


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(gcs: GcsStorage, bucket_server: BucketServer, status: int) -> None:
    bucket_server.faults.add("*", ".", Fault(status=status), times=2)
    gcs.write("x", b"data", if_generation=0)
    assert bucket_server.data("some/prefix/x") == b"data"
    assert len(bucket_server.log) == 3


def test_retries_have_a_limit(gcs: GcsStorage, bucket_server: BucketServer) -> None:
    bucket_server.faults.add("*", ".", Fault(status=503), times=None)
    with pytest.raises(UnavailableError, match=r"some/prefix/x: .* does not answer, after retries"):
        gcs.write("x", b"data")
    assert len(bucket_server.log) == 4


def test_the_limit_also_holds_inside_a_large_upload(
    gcs: GcsStorage, bucket_server: BucketServer, big: Path
) -> None:
    bucket_server.faults.add("PUT", "upload_id", Fault(status=503), times=None)
    with pytest.raises(UnavailableError):
        gcs.upload("x", big)
    assert len(bucket_server.log) == 1 + 4
    assert bucket_server.names() == []


def test_retry_after_is_kept_and_cannot_exceed_the_deadline(
    gcs: GcsStorage, bucket_server: BucketServer
) -> None:
    bucket_server.faults.add("*", ".", Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(UnavailableError):
        gcs.read("x")
    assert len(bucket_server.log) == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, gcs: GcsStorage, bucket_server: BucketServer) -> None:
    bucket_server.faults.add("*", ".", NO_ANSWER, times=None)
    for call in (lambda: gcs.stat("x"), gcs.list, lambda: gcs.read("x"), lambda: gcs.delete("x")):
        with pytest.raises(UnavailableError, match=r"after retries \(no connection, or it was cut\)$"):
            call()


def test_refused_access_names_bucket_and_role(
    gcs: GcsStorage, bucket_server: BucketServer, big: Path
) -> None:
    bucket_server.faults.add("*", ".", Fault(status=403), times=None)
    for call in (lambda: gcs.write("x", b""), lambda: gcs.upload("x", big), lambda: gcs.stat("x"), gcs.list):
        with pytest.raises(AccessError, match="test-bucket") as caught:
            call()
        assert "roles/storage.objectUser" in (caught.value.hint or "")
    assert len(bucket_server.log) == 4


def test_credentials_that_are_not_accepted(gcs: GcsStorage, bucket_server: BucketServer, big: Path) -> None:
    bucket_server.faults.add("*", ".", Fault(status=401), times=None)
    for call in (lambda: gcs.write("x", b""), lambda: gcs.upload("x", big), gcs.list):
        with pytest.raises(AccessError):
            call()


def test_no_such_bucket(bucket_server: BucketServer, big: Path, tmp_path: Path) -> None:
    storage = GcsStorage("gs://other-bucket/p", single_request=QUANTUM, chunk=QUANTUM)
    calls: list[Any] = [
        lambda: storage.write("x", b"", if_generation=0),
        lambda: storage.upload("x", big),
        lambda: storage.read("x"),
        lambda: storage.stat("x"),
        lambda: storage.download("x", tmp_path / "x"),
        storage.list,
    ]
    for call in calls:
        with pytest.raises(StorageError, match="gs://other-bucket: there is no such bucket"):
            call()
    storage.close()


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(AccessError, match="no Google Cloud credentials") as caught:
        open_storage("gs://some-bucket/p")
    assert "gcloud auth application-default login" in (caught.value.hint or "")


def test_a_credentials_file_that_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(AccessError):
        open_storage("gs://some-bucket/p")


@pytest.mark.parametrize(
    "uri", ["gs://", "gs:///x", "gs://Bucket/x", "gs://b b/x", "gs://bucket/../x", "gs://b"]
)
def test_a_bad_uri(uri: str) -> None:
    with pytest.raises(ConfigError):
        parse_uri(uri)


def test_other_schemes_and_slashes() -> None:
    with pytest.raises(ConfigError, match="s3://"):
        open_storage("s3://bucket/x")
    assert parse_uri("gs://bucket") == ("bucket", "")
    assert parse_uri("gs://bucket/a/b/") == ("bucket", "a/b/")


def test_the_emulator_may_be_named_without_scheme(
    monkeypatch: pytest.MonkeyPatch, bucket_server: BucketServer
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_server.url.removeprefix("http://"))
    storage = GcsStorage(bucket_server.uri())
    storage.write("x", b"1")
    storage.close()
    assert bucket_server.data("x") == b"1"


def test_precondition_on_a_resumable_upload(gcs: GcsStorage, bucket_server: BucketServer, big: Path) -> None:
    info = gcs.write("x", b"old")
    with pytest.raises(PreconditionError):
        gcs.upload("x", big, if_generation=0)
    assert gcs.upload("x", big, if_generation=info.generation).crc32c == crc32c_bytes(BIG)
    with pytest.raises(PreconditionError):
        gcs.delete("x", if_generation=info.generation)
    assert bucket_server.data("some/prefix/x") == BIG


def test_somebody_writes_while_a_resumable_upload_runs(
    gcs: GcsStorage, bucket_server: BucketServer, big: Path
) -> None:
    bucket_server.faults.add(
        "PUT", "upload_id", Fault(before=lambda: bucket_server.put("some/prefix/x", b"theirs")), skip=2
    )
    with pytest.raises(PreconditionError):
        gcs.upload("x", big, if_generation=0)
    assert bucket_server.data("some/prefix/x") == b"theirs"


@pytest.mark.parametrize("generation", [None, 0])
def test_a_lost_answer_is_no_conflict(
    gcs: GcsStorage, bucket_server: BucketServer, generation: int | None
) -> None:
    bucket_server.faults.add("POST", "upload", NO_ANSWER)
    info = gcs.write("claim", b"mine", if_generation=generation)
    assert gcs.stat("claim") == info


def test_a_lost_answer_does_not_hide_a_conflict(gcs: GcsStorage, bucket_server: BucketServer) -> None:
    """The other's content may even be the same: the write is told by its mark."""
    bucket_server.faults.add(
        "POST", "upload", Fault(status=503, after=lambda: bucket_server.put("some/prefix/claim", b"same"))
    )
    with pytest.raises(PreconditionError):
        gcs.write("claim", b"same", if_generation=0)


def test_lost_answers_of_swap_and_delete(gcs: GcsStorage, bucket_server: BucketServer) -> None:
    first = gcs.write("x", b"one")
    bucket_server.faults.add("POST", "upload", NO_ANSWER)
    second = gcs.write("x", b"two", if_generation=first.generation)
    assert bucket_server.data("some/prefix/x") == b"two"
    bucket_server.faults.add("DELETE", ".", NO_ANSWER)
    gcs.delete("x", if_generation=second.generation)
    assert bucket_server.names() == []


def test_a_delete_that_is_refused_because_nothing_is_there(
    gcs: GcsStorage, bucket_server: BucketServer
) -> None:
    bucket_server.faults.add("DELETE", ".", Fault(status=412), times=2)
    gcs.delete("x", if_generation=5)
    gcs.write("x", b"")
    with pytest.raises(PreconditionError):
        gcs.delete("x", if_generation=5)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=100_000),
        Fault(cut_after=0),
        NO_ANSWER,
        Fault(status=503),
        Fault(keep_only=0),
        Fault(keep_only=100_000),
        Fault(status=429, headers={"Retry-After": "0"}),
    ],
)
@pytest.mark.parametrize("chunk", [0, 2, 5])
def test_a_large_upload_goes_on_where_it_was_cut(
    gcs: GcsStorage, bucket_server: BucketServer, big: Path, fault: Fault, chunk: int
) -> None:
    bucket_server.faults.add("PUT", "upload_id", fault, skip=chunk)
    info = gcs.upload("x", big, if_generation=0)
    assert bucket_server.data("some/prefix/x") == BIG
    assert info.crc32c == crc32c_bytes(BIG)
    assert bucket_server.faults.hits == 1
    assert sum("uploadType=resumable&name" in path for _, path in bucket_server.log) == 1
    assert len(bucket_server.log) <= 1 + 6 + 3


def test_a_part_of_a_large_chunk_that_came_is_not_sent_again(bucket_server: BucketServer, big: Path) -> None:
    storage = GcsStorage(bucket_server.uri(), single_request=0, chunk=4 * QUANTUM)
    bucket_server.faults.add("PUT", "upload_id", Fault(cut_after=2 * QUANTUM + 5))
    progress: list[int] = []
    storage.upload("x", big, on_progress=progress.append)
    storage.close()
    assert bucket_server.data("x") == BIG
    assert progress == [2 * QUANTUM, len(BIG)] or progress == [2 * QUANTUM, 6 * QUANTUM, len(BIG)]


def test_an_upload_session_that_is_gone_begins_anew(
    gcs: GcsStorage, bucket_server: BucketServer, big: Path
) -> None:
    bucket_server.faults.add("PUT", "upload_id", Fault(before=bucket_server.sessions.clear), skip=2)
    gcs.upload("x", big, if_generation=0)
    assert bucket_server.data("some/prefix/x") == BIG


@pytest.mark.parametrize("large", [False, True])
def test_damage_on_the_way_is_refused_and_sent_again(
    gcs: GcsStorage, bucket_server: BucketServer, tmp_path: Path, large: bool
) -> None:
    data = BIG if large else b"small"
    path = tmp_path / "file"
    path.write_bytes(data)
    bucket_server.faults.add("*", "upload(/|_id)", Fault(damage_body=True), skip=int(large))
    gcs.upload("x", path, if_generation=0)
    assert bucket_server.data("some/prefix/x") == data
    bucket_server.faults.add("*", "upload(/|_id)", Fault(damage_body=True), times=None)
    with pytest.raises(StorageError, match="checksum"):
        gcs.upload("y", path)
    assert bucket_server.names() == ["some/prefix/x"]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("create", [False, True])
def test_damage_in_the_store_is_noticed_and_taken_away(
    gcs: GcsStorage, bucket_server: BucketServer, tmp_path: Path, large: bool, create: bool
) -> None:
    data = BIG if large else b"small"
    path = tmp_path / "file"
    path.write_bytes(data)
    generation = 0 if create else gcs.write("x", b"old").generation
    bucket_server.faults.add("*", "upload", Fault(damage_stored=True), skip=6 if large else 0)
    gcs.upload("x", path, if_generation=generation)
    assert bucket_server.data("some/prefix/x") == data
    assert bucket_server.faults.hits == 1


def test_lasting_damage_ends_with_nothing_bad_left(gcs: GcsStorage, bucket_server: BucketServer) -> None:
    bucket_server.faults.add("POST", "upload", Fault(damage_stored=True), times=None)
    with pytest.raises(StorageError, match="checksum"):
        gcs.write("x", b"data", if_generation=0)
    assert bucket_server.names() == []


@pytest.mark.parametrize(
    "fault", [Fault(cut_answer=300_000), NO_ANSWER, Fault(status=503), Fault(damage_answer=True)]
)
def test_a_download_goes_on_and_is_checked(
    gcs: GcsStorage, bucket_server: BucketServer, big: Path, tmp_path: Path, fault: Fault
) -> None:
    gcs.upload("x", big)
    bucket_server.faults.add("GET", "alt=media", fault)
    gcs.download("x", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == BIG
    assert bucket_server.faults.hits == 1


@pytest.mark.parametrize("fault", [Fault(damage_answer=True), Fault(cut_answer=2), NO_ANSWER])
def test_a_small_read_is_checked(gcs: GcsStorage, bucket_server: BucketServer, fault: Fault) -> None:
    gcs.write("x", b"content")
    bucket_server.faults.add("GET", "alt=media", fault)
    assert gcs.read("x") == b"content"
    assert bucket_server.faults.hits == 1


def test_a_download_that_stays_damaged_leaves_nothing(
    gcs: GcsStorage, bucket_server: BucketServer, big: Path, tmp_path: Path
) -> None:
    gcs.upload("x", big)
    (tmp_path / "back").write_bytes(b"older")
    bucket_server.faults.add("GET", "alt=media", Fault(damage_answer=True), times=None)
    with pytest.raises(StorageError, match="checksum"):
        gcs.download("x", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "big"]


def test_a_long_list_comes_in_pages(gcs: GcsStorage, bucket_server: BucketServer) -> None:
    bucket_server.page_size = 3
    for number in range(8):
        bucket_server.put(f"some/prefix/{number}", b"")
    bucket_server.put("some/prefix-other/x", b"")
    bucket_server.put("some/prefix/folder/", b"")
    bucket_server.faults.add("GET", "pageToken=3", Fault(status=503))
    assert [info.name for info in gcs.list()] == list("01234567")


def test_one_of_many_writers_wins(bucket_server: BucketServer) -> None:
    results: list[str] = []

    def run(number: int) -> None:
        storage = GcsStorage(bucket_server.uri())
        try:
            storage.write("claim", str(number).encode(), if_generation=0)
            results.append(str(number))
        except PreconditionError:
            results.append("lost")
        storage.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results)[1:] == ["lost"] * 5
    assert bucket_server.data("claim").decode() in results


def test_updated_is_the_servers_clock(gcs: GcsStorage, bucket_server: BucketServer) -> None:
    first = gcs.write("a", b"")
    bucket_server.advance(1000)
    assert 999 < gcs.write("b", b"").updated - first.updated < 1010


def test_folders_do_not_import_the_client() -> None:
    code = "import sys, packtrain.storage as s; s.open_storage('x'); assert 'google.cloud' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
