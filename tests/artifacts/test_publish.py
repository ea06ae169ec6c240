"""Publishing to a folder, to the bucket stand-in and to the emulator: whose a prefix is, and what stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from standins import adapter
from standins.adapter import Adapter
from standins.bucket import BucketServer, bucket_server  # noqa: F401
from standins.fake_gcs import fake_gcs  # noqa: F401

from packtrain.artifacts.publish import CLAIM, publish, read_receipt
from packtrain.errors import ConflictError, StorageError
from packtrain.storage import open_storage
from packtrain.storage.base import ObjectInfo, Progress, Storage
from packtrain.storage.local import LocalStorage


@pytest.fixture(params=["folder", "stand-in", "emulator"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield open_storage(tmp_path / "final_model")
        return
    server = request.getfixturevalue("bucket_server" if request.param == "stand-in" else "fake_gcs")
    storage = open_storage(server.uri("final_model"))
    yield storage
    storage.close()


def contents(storage: Storage) -> dict[str, bytes]:
    return {info.name: storage.read(info.name) for info in storage.list() if info.name != CLAIM}


def generations(storage: Storage) -> dict[str, int]:
    return {info.name: info.generation for info in storage.list()}


@pytest.fixture
def first(tmp_path: Path) -> Adapter:
    return adapter.make(tmp_path / "first", "RUN1")


@pytest.fixture
def second(tmp_path: Path) -> Adapter:
    return adapter.make(tmp_path / "second", "RUN2")


def test_all_files_the_receipt_and_the_claim(destination: Storage, first: Adapter) -> None:
    seen: dict[str, tuple[int, int]] = {}
    publish(
        first.files,
        first.receipt,
        destination,
        "RUN1",
        on_progress=lambda name, done, total: seen.update({name: (done, total)}),
    )
    assert contents(destination) == first.contents
    claim = json.loads(destination.read(CLAIM))
    assert claim["run_id"] == "RUN1"
    assert claim["files"] == sorted(first.files)
    assert seen == {name: (path.stat().st_size,) * 2 for name, path in first.files.items()}


def test_again_changes_nothing(destination: Storage, first: Adapter) -> None:
    first.publish(destination)
    before = generations(destination)
    first.publish(destination)
    assert generations(destination) == before


def test_another_run_is_refused_after_the_end(destination: Storage, first: Adapter, second: Adapter) -> None:
    first.publish(destination)
    with pytest.raises(ConflictError, match="holds the finished adapter of run RUN1") as caught:
        second.publish(destination)
    assert caught.value.exit_code == 73
    assert "output.uri" in (caught.value.hint or "")
    assert "rm -r" in (caught.value.hint or "")
    assert contents(destination) == first.contents


def test_another_run_is_refused_before_the_end(destination: Storage, first: Adapter, second: Adapter) -> None:
    first.publish(destination)
    destination.delete("receipt.json")
    with pytest.raises(ConflictError, match=r"run RUN1 .* is publishing here, or was cut off"):
        second.publish(destination)


def test_another_run_is_refused_by_the_receipt_alone(
    destination: Storage, first: Adapter, second: Adapter
) -> None:
    first.publish(destination)
    destination.delete(CLAIM)
    with pytest.raises(ConflictError, match="finished adapter of another run"):
        second.publish(destination)
    first.publish(destination)
    assert contents(destination) == first.contents


def test_the_same_run_replaces_its_own(destination: Storage, first: Adapter, tmp_path: Path) -> None:
    """Another attempt has other files: what the new receipt does not list goes, and nothing else."""
    first.publish(destination)
    destination.write("notes.txt", b"somebody else's")
    names = (*adapter.NAMES[1:], "chat_template.jinja")
    changed = adapter.make(tmp_path / "changed", "RUN1", seed=1, names=names)
    changed.publish(destination)
    assert contents(destination) == changed.contents | {"notes.txt": b"somebody else's"}


def test_files_of_others_are_not_overwritten(destination: Storage, first: Adapter) -> None:
    destination.write("README.md", b"my own project")
    with pytest.raises(ConflictError, match=r"README\.md: is there already"):
        first.publish(destination)
    assert contents(destination) == {"README.md": b"my own project"}
    assert destination.stat(CLAIM) is None


def test_only_what_is_missing_or_wrong_is_sent(destination: Storage, first: Adapter) -> None:
    first.publish(destination)
    before = generations(destination)
    destination.write("README.md", b"damaged")
    destination.delete("tokenizer.json")
    first.publish(destination)
    assert contents(destination) == first.contents
    after = generations(destination)
    assert {name for name in before if before[name] != after[name]} == {
        *("README.md", "tokenizer.json", "receipt.json")
    }


def test_a_file_that_changed_after_its_receipt(destination: Storage, first: Adapter) -> None:
    first.files["README.md"].write_bytes(b"x" * 40)
    with pytest.raises(StorageError, match=r"README\.md: is not what the receipt says"):
        first.publish(destination)
    assert destination.list() == []


def test_a_file_that_is_gone(destination: Storage, first: Adapter) -> None:
    first.files["README.md"].unlink()
    with pytest.raises(StorageError, match=r"README\.md: cannot be read: No such file"):
        first.publish(destination)


def test_a_claim_that_cannot_be_read(destination: Storage, first: Adapter) -> None:
    destination.write(CLAIM, b"[]")
    with pytest.raises(ConflictError, match="is not a claim"):
        first.publish(destination)


def test_the_runs_own_folder_as_destination(tmp_path: Path, first: Adapter) -> None:
    first.publish(LocalStorage(tmp_path / "first"))
    assert contents(LocalStorage(tmp_path / "first")) == first.contents


class Meddled(LocalStorage):
    """Somebody else writes to a file that is already up while the last one goes up."""

    def upload(
        self,
        name: str,
        path: Path,
        *,
        if_generation: int | None = None,
        on_progress: Progress | None = None,
    ) -> ObjectInfo:
        if name == "tokenizer.json":
            self.write("README.md", b"meddled")
        return super().upload(name, path, if_generation=if_generation, on_progress=on_progress)


def test_a_change_while_publishing_leaves_no_receipt(tmp_path: Path, first: Adapter) -> None:
    storage = Meddled(tmp_path / "out")
    with pytest.raises(ConflictError, match="changed by somebody else while it was published"):
        first.publish(storage)
    assert storage.stat("receipt.json") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"run_id": "x"}',
        '{"run_id": "x", "files": []}',
        '{"run_id": "x", "files": {"a": {}}}',
        '{"run_id": "x", "files": {"a": {"bytes": "many", "sha256": "", "crc32c": ""}}}',
        '{"run_id": "x", "files": {"../a": {"bytes": 1, "sha256": "", "crc32c": ""}}}',
        '{"run_id": "x", "files": {"/a": {"bytes": 1, "sha256": "", "crc32c": ""}}}',
        '{"run_id": "x", "files": {"receipt.json": {"bytes": 1, "sha256": "", "crc32c": ""}}}',
        "\xff",
    ],
)
def test_what_is_no_receipt(text: str) -> None:
    with pytest.raises(StorageError):
        read_receipt(text.encode("latin-1"), "there/receipt.json")


def test_the_server_is_asked_for_no_more_than_the_prefix(
    bucket_server: BucketServer,  # noqa: F811
    first: Adapter,
) -> None:
    """A claim in one create-only request; the receipt last, create-only too; no listing."""
    storage = open_storage(bucket_server.uri("final_model"))
    first.publish(storage)
    storage.close()
    writes = [path for method, path in bucket_server.log if method == "POST"]
    assert len(writes) == 6
    assert all("ifGenerationMatch=0" in path for path in writes)
    assert not any(path.startswith("/storage/v1/b/test-bucket/o?") for _, path in bucket_server.log)
    stored = bucket_server.buckets["test-bucket"]
    order = sorted(stored, key=lambda name: stored[name].generation)
    assert (order[0], order[-1]) == (f"final_model/{CLAIM}", "final_model/receipt.json")
