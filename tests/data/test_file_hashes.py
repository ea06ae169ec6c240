"""A large file is read once for each of its states; what is remembered is never of another state."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from packtrain.data import file_hashes as module
from packtrain.data.file_hashes import file_sha256


@pytest.fixture(autouse=True)
def hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LARGE", 10)
    monkeypatch.setattr(module, "SETTLED", -3600.0)  # whatever the clock says
    return tmp_path / "cache" / "hashes"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"a" * 20)
    assert file_sha256(path) == sha(b"a" * 20)

    def fail(_: Path) -> str:
        raise AssertionError("it is read again")

    monkeypatch.setattr(module, "sha256_file", fail)
    assert file_sha256(path) == sha(b"a" * 20)


def test_another_content_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"a" * 20)
    file_sha256(path)
    times = path.stat()
    path.write_bytes(b"b" * 20)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_sha256(path) == sha(b"b" * 20)
    (tmp_path / "other").write_bytes(b"c" * 20)
    os.utime(tmp_path / "other", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "other").replace(path)
    assert file_sha256(path) == sha(b"c" * 20)


def test_small_files_and_those_that_just_changed_are_always_read(
    tmp_path: Path, hashes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"small")
    assert file_sha256(path) == sha(b"small")
    monkeypatch.setattr(module, "SETTLED", 3600.0)
    path.write_bytes(b"large enough")
    assert file_sha256(path) == sha(b"large enough")
    assert not hashes.exists()


@pytest.mark.parametrize("content", [b"", b"0" * 63, b"x" * 64, b"\xff" * 64])
def test_a_torn_or_foreign_note_is_not_believed(tmp_path: Path, hashes: Path, content: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"a" * 20)
    file_sha256(path)
    (note,) = hashes.iterdir()
    note.write_bytes(content)
    assert file_sha256(path) == sha(b"a" * 20)
    assert note.read_text() == sha(b"a" * 20)


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "file" / "below"))
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"a" * 20)
    assert file_sha256(path) == sha(b"a" * 20)


def test_few_are_remembered(tmp_path: Path, hashes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP", 2)
    for number in range(4):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"a" * (20 + number))
        file_sha256(path)
    assert len(list(hashes.iterdir())) == 2
