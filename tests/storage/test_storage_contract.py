"""What every storage promises, held against a folder, the stand-in and the emulator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packtrain.errors import StorageError
from packtrain.storage.base import PreconditionError, Storage
from packtrain.storage.checksums import crc32c_bytes

BIG = os.urandom(700 * 1024 + 3)


def test_write_read_stat_list_delete(storage: Storage) -> None:
    assert storage.stat("a.txt") is None
    assert storage.list() == []
    info = storage.write("a.txt", b"hello")
    assert (info.name, info.size, info.crc32c) == ("a.txt", 5, crc32c_bytes(b"hello"))
    assert storage.stat("a.txt") == info
    storage.write("sub/b.txt", b"")
    assert [each.name for each in storage.list()] == ["a.txt", "sub/b.txt"]
    assert [each.name for each in storage.list("sub/")] == ["sub/b.txt"]
    assert storage.read("a.txt") == b"hello"
    assert storage.read("sub/b.txt") == b""
    storage.delete("a.txt")
    storage.delete("a.txt")
    assert [each.name for each in storage.list()] == ["sub/b.txt"]


def test_names_in_every_script(storage: Storage) -> None:
    for name in ("한국어/모델 카드.md", "a b+c%20&=?#.txt", "ünï.json"):
        storage.write(name, name.encode())
        assert storage.read(name) == name.encode()
        assert storage.stat(name) is not None
    assert len(storage.list()) == 3


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\x00b", "a\nb", "a/"]
)
def test_a_name_cannot_leave_the_prefix(storage: Storage, name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        storage.write(name, b"x")
    with pytest.raises(StorageError):
        storage.download(name, tmp_path / "x")


def test_what_is_not_there(storage: Storage, tmp_path: Path) -> None:
    storage.write("other", b"x")
    with pytest.raises(FileNotFoundError):
        storage.read("missing")
    with pytest.raises(FileNotFoundError):
        storage.download("missing", tmp_path / "x")
    assert list(tmp_path.glob("*x*")) == []
    with pytest.raises(FileNotFoundError):
        storage.upload("new", tmp_path / "no-such-file")


def test_create_only(storage: Storage) -> None:
    first = storage.write("claim", b"one", if_generation=0)
    with pytest.raises(PreconditionError):
        storage.write("claim", b"two", if_generation=0)
    assert storage.stat("claim") == first
    assert storage.read("claim") == b"one"


def test_compare_and_swap(storage: Storage) -> None:
    first = storage.write("x", b"one")
    second = storage.write("x", b"two", if_generation=first.generation)
    assert second.generation > first.generation
    with pytest.raises(PreconditionError):
        storage.write("x", b"three", if_generation=first.generation)
    assert storage.read("x") == b"two"


def test_generations_never_come_back(storage: Storage) -> None:
    seen = []
    for _ in range(10):
        seen.append(storage.write("x", b"same").generation)
        storage.delete("x")
        seen.append(storage.write("x", b"same").generation)
    assert len(set(seen)) == 20
    assert seen == sorted(seen)


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, len(BIG)])
def test_upload_and_download(storage: Storage, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BIG[:size])
    up: list[int] = []
    down: list[int] = []
    info = storage.upload("weights.safetensors", source, on_progress=up.append)
    assert (info.size, info.crc32c) == (size, crc32c_bytes(BIG[:size]))
    assert storage.download("weights.safetensors", target, on_progress=down.append) == info
    assert target.read_bytes() == BIG[:size]
    assert up == sorted(up)
    if size:
        assert (up[-1], down[-1]) == (size, size)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["source", "target"]
