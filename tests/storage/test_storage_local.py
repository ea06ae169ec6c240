"""A folder as a bucket: between processes, with a full disk, with links."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from packtrain.errors import AccessError, StorageError
from packtrain.storage import open_storage
from packtrain.storage.base import PreconditionError
from packtrain.storage.local import LocalStorage

INCREMENT = """
import sys
from pathlib import Path
from packtrain.storage.base import PreconditionError
from packtrain.storage.local import LocalStorage
storage = LocalStorage(Path(sys.argv[1]))
done = 0
while done < 40:
    info = storage.stat("counter")
    value = int(storage.read("counter"))
    try:
        storage.write("counter", str(value + 1).encode(), if_generation=info.generation)
        done += 1
    except PreconditionError:
        pass
"""


def test_compare_and_swap_between_processes_loses_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("counter", b"0")
    processes = [subprocess.Popen([sys.executable, "-c", INCREMENT, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert storage.read("counter") == b"120"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_one_of_many_threads_creates(tmp_path: Path) -> None:
    storage, won = LocalStorage(tmp_path), []

    def run(number: int) -> None:
        try:
            storage.write("claim", str(number).encode(), if_generation=0)
            won.append(str(number).encode())
        except PreconditionError:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [storage.read("claim")]


def test_a_full_disk_is_said_and_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        storage.write("x", b"new")
    assert caught.value.exit_code == 74
    assert storage.read("x") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_refuses(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AccessError, match="Permission denied"):
        LocalStorage(tmp_path / "sub").write("x", b"")
    tmp_path.chmod(0o700)


def test_a_full_disk_while_downloading_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path / "store")
    storage.write("x", b"content")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="target: the disk is full"):
        storage.download("x", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = LocalStorage(tmp_path / "file")
    assert storage.stat("x") is None
    with pytest.raises(StorageError, match="file"):
        storage.write("x", b"")
    with pytest.raises(StorageError):
        storage.read("x")


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("theirs")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "store" / "file").symlink_to(tmp_path / "outside" / "precious")
    storage = LocalStorage(tmp_path / "store")
    with pytest.raises(StorageError, match="leads out"):
        storage.write("link/x", b"")
    storage.write("file", b"mine")
    assert (tmp_path / "outside" / "precious").read_text() == "theirs"
    assert storage.read("file") == b"mine"


def test_a_change_by_hand_changes_the_generation(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    info = storage.write("x", b"one")
    (tmp_path / "x").write_bytes(b"two")
    changed = storage.stat("x")
    assert changed is not None
    assert changed.crc32c != info.crc32c
    with pytest.raises(PreconditionError):
        storage.delete("x", if_generation=info.generation)


def test_temporary_files_of_a_killed_process_are_not_listed_and_go(tmp_path: Path) -> None:
    (tmp_path / ".packtrain-tmp-123").write_text("torn")
    (tmp_path / ".packtrain-guard").write_text("")
    storage = LocalStorage(tmp_path)
    assert storage.list() == []
    storage.write("x", b"1")
    assert [info.name for info in storage.list()] == ["x"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_temporary_file_in_use_stays(tmp_path: Path) -> None:
    """While a large upload is under way, others write to the same folder."""
    storage = LocalStorage(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(bytes(3 << 20))

    def another(done: int) -> None:
        storage.write(f"other-{done}", b"")

    storage.upload("x", source, on_progress=another)
    assert storage.read("x") == source.read_bytes()
    assert len(list((tmp_path / "store").iterdir())) == 4


def test_reading_makes_nothing(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "new")
    assert storage.list() == []
    assert storage.stat("x") is None
    storage.delete("x")
    assert list(tmp_path.iterdir()) == []
