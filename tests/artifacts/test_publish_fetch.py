"""Fetching what was published: verified or not there."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from standins import adapter
from standins.adapter import Adapter
from standins.bucket import BucketServer, Fault, bucket_server  # noqa: F401
from standins.fake_gcs import FakeGcs, fake_gcs  # noqa: F401

from packtrain.artifacts.fetch import fetch
from packtrain.artifacts.publish import CLAIM
from packtrain.cli.main import main
from packtrain.errors import ConflictError, StorageError
from packtrain.storage.local import LocalStorage


@pytest.fixture
def made(tmp_path: Path) -> Adapter:
    return adapter.make(tmp_path / "made", "RUN1")


@pytest.fixture
def source(tmp_path: Path, made: Adapter) -> LocalStorage:
    storage = LocalStorage(tmp_path / "published")
    made.publish(storage)
    return storage


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")}


def beside(folder: Path) -> list[str]:
    """Nothing temporary stays beside the folder."""
    return [path.name for path in folder.parent.iterdir() if "packtrain" in path.name]


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_folder(source: LocalStorage, made: Adapter, tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "deep" / "target"
    if exists:
        target.mkdir(parents=True)
    source.write("checkpoint/other.bin", b"not in the receipt")
    fetched = fetch(source, target)
    assert contents(target) == made.contents
    assert fetched["run_id"] == "RUN1"
    assert all(file["fetched"] for file in fetched["files"].values())
    assert fetched["ignored"] == ["checkpoint/other.bin"]
    assert beside(target) == []
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_again_verifies_and_mends(source: LocalStorage, made: Adapter, tmp_path: Path) -> None:
    target = tmp_path / "target"
    fetch(source, target)
    assert not any(file["fetched"] for file in fetch(source, target)["files"].values())
    (target / "README.md").write_bytes(b"x" * 40)
    (target / "tokenizer.json").unlink()
    fetched = fetch(source, target)
    assert {name for name, file in fetched["files"].items() if file["fetched"]} == {
        *("README.md", "tokenizer.json")
    }
    assert contents(target) == made.contents


def test_after_a_fetch_that_was_killed(source: LocalStorage, made: Adapter, tmp_path: Path) -> None:
    left = tmp_path / ".target.packtrain-fetch"
    left.mkdir()
    (left / "README.md").write_bytes(made.contents["README.md"])
    (left / "tokenizer.json").write_bytes(b"torn")
    (left / "of-another-run").write_bytes(b"")
    brought: set[str] = set()
    fetch(source, tmp_path / "target", on_progress=lambda name, done, total: brought.add(name))
    assert contents(tmp_path / "target") == made.contents
    assert brought == set(made.files) - {"README.md"}
    assert not left.exists()


def test_two_fetches_into_one_folder(source: LocalStorage, made: Adapter, tmp_path: Path) -> None:
    def second(name: str, done: int, total: int) -> None:
        with pytest.raises(ConflictError, match="another fetch"):
            fetch(source, tmp_path / "target")

    fetch(source, tmp_path / "target", on_progress=second)
    assert contents(tmp_path / "target") == made.contents


def test_a_folder_with_something_else(source: LocalStorage, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(ConflictError, match="is not empty, and holds something else"):
        fetch(source, target)
    (target / "receipt.json").write_text(json.dumps({"run_id": "RUN0", "files": {}}))
    with pytest.raises(ConflictError, match="another adapter"):
        fetch(source, target)
    assert sorted(contents(target)) == ["receipt.json", "thesis.txt"]
    with pytest.raises(ConflictError, match="is a file"):
        fetch(source, target / "thesis.txt")


def test_without_receipt(source: LocalStorage, tmp_path: Path) -> None:
    source.delete("receipt.json")
    with pytest.raises(StorageError, match=r"has no receipt\.json: it is not a verified adapter"):
        fetch(source, tmp_path / "target")
    with pytest.raises(StorageError, match="nothing is there"):
        fetch(LocalStorage(tmp_path / "nowhere"), tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("how", ["changed", "shorter", "gone", "sha256", "crc32c"])
def test_a_file_that_is_not_what_the_receipt_says(source: LocalStorage, tmp_path: Path, how: str) -> None:
    name = "adapter_model.safetensors"
    if how == "gone":
        source.delete(name)
    elif how in {"sha256", "crc32c"}:
        receipt = json.loads(source.read("receipt.json"))
        receipt["files"][name][how] = "AAAAAA=="
        source.write("receipt.json", json.dumps(receipt).encode())
    else:
        source.write(name, b"x" * (3000 if how == "changed" else 2999))
    with pytest.raises(StorageError, match=name):
        fetch(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert beside(tmp_path / "target") == []


def test_a_receipt_cannot_write_elsewhere(source: LocalStorage, tmp_path: Path) -> None:
    receipt = json.loads(source.read("receipt.json"))
    receipt["files"]["../escaped"] = receipt["files"]["README.md"]
    source.write("receipt.json", json.dumps(receipt).encode())
    with pytest.raises(StorageError):
        fetch(source, tmp_path / "target")
    assert not (tmp_path / "escaped").exists()


def test_the_command(
    bucket_server: BucketServer,  # noqa: F811
    made: Adapter,
    source: LocalStorage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, data in (made.contents | {CLAIM: source.read(CLAIM), "extra": b""}).items():
        bucket_server.put(f"final_model/{name}", data)
    target = tmp_path / "target"
    assert main(["fetch", bucket_server.uri("final_model"), str(target)]) == 0
    out, err = capsys.readouterr()
    assert out.count("fetched, verified") == 4
    assert f"Adapter of run RUN1 verified in {target}" in out
    assert "extra (1)" in err
    assert contents(target) == made.contents
    assert main(["fetch", bucket_server.uri("final_model"), str(target), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"]["README.md"] == {
        **json.loads(made.receipt)["files"]["README.md"],
        "fetched": False,
    }


def test_the_commands_failures(
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = str(tmp_path / "target")
    assert main(["fetch", "gs://no-such-bucket/x", target]) == 74
    assert main(["fetch", "s3://bucket/x", target]) == 78
    bucket_server.faults.add("*", ".", Fault(status=403), times=None)
    assert main(["fetch", bucket_server.uri("x"), target]) == 77
    err = capsys.readouterr().err
    assert "there is no such bucket" in err
    assert "roles/storage.objectUser" in err
    assert "Traceback" not in err


def test_a_bar_only_where_somebody_looks(source: LocalStorage, tmp_path: Path) -> None:
    """stderr is a terminal: bars go there, and stdout stays what was asked for."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "packtrain.cli.main", "fetch", source.uri, str(tmp_path / "target"), "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    out, _ = process.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 100_000)
    os.close(ours)
    assert json.loads(out)["run_id"] == "RUN1"
    assert b"adapter_model.safetensors" in shown


def test_from_the_emulator(fake_gcs: FakeGcs, made: Adapter, tmp_path: Path) -> None:  # noqa: F811
    from packtrain.storage.gcs import GcsStorage

    storage = GcsStorage(fake_gcs.uri("final_model"))
    made.publish(storage)
    fetch(storage, tmp_path / "target")
    storage.close()
    assert contents(tmp_path / "target") == made.contents
