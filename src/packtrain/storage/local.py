"""A folder with the semantics of a bucket: whole writes, generations, preconditions.

A write goes to a hidden temporary file, is flushed to the disk, and is renamed. Whether the
precondition holds is decided under an exclusive lock (flock on a guard file), so that two processes
that write to one name with the same precondition have exactly one winner. The generation is the
modification time in nanoseconds, which each write sets to a value that never was; ``updated`` is
the inode's change time, which only the file system's own clock can set.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from packtrain.errors import AccessError, StorageError, UnavailableError
from packtrain.rundir import sync
from packtrain.storage.base import ObjectInfo, PreconditionError, Progress
from packtrain.storage.checksums import BLOCK, crc32c_file
from packtrain.storage.names import check_name

TEMPORARY = ".packtrain-tmp-"
GUARD = ".packtrain-guard"
GUARD_TIMEOUT = 60.0


class LocalStorage:
    """Objects are the files under ``folder``; it is made by the first write.

    ``stat`` and ``list`` read a file once for its checksum, and again only after it has changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.uri = str(self.folder)
        self._checksums: dict[str, tuple[tuple[int, int, int], str]] = {}

    def close(self) -> None:
        """Nothing is held open."""

    def stat(self, name: str) -> ObjectInfo | None:
        path = self._path(name)
        with _told(path):
            return self._stat(name, path)

    def _stat(self, name: str, path: Path) -> ObjectInfo | None:
        try:
            facts = path.stat()
            if not path.is_file():
                return None
            key = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
            known = self._checksums.get(name)
            crc32c = known[1] if known and known[0] == key else crc32c_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        self._checksums[name] = (key, crc32c)
        return ObjectInfo(name, facts.st_size, crc32c, facts.st_mtime_ns, facts.st_ctime)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        found = []
        with _told(self.folder):
            for parent, _, files in os.walk(self.folder):
                for file in files:
                    path = Path(parent, file)
                    name = path.relative_to(self.folder).as_posix()
                    if name.startswith(prefix) and not file.startswith((TEMPORARY, GUARD)):
                        found.append(self._stat(name, path))
        return sorted((info for info in found if info), key=lambda info: info.name)

    def read(self, name: str) -> bytes:
        path = self._path(name)
        with _told(path):
            return path.read_bytes()

    def read_range(self, name: str, start: int, count: int, generation: int) -> bytes:
        path = self._path(name)
        with _told(path), path.open("rb") as file:
            file.seek(start)
            data = file.read(count)
            if len(data) != count or os.fstat(file.fileno()).st_mtime_ns != generation:
                raise StorageError(f"{path}: changed while it was read")
        return data

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> ObjectInfo:
        def fill(file: BinaryIO) -> None:
            file.write(data)

        return self._put(name, fill, if_generation)

    def upload(
        self,
        name: str,
        path: Path,
        *,
        if_generation: int | None = None,
        on_progress: Progress | None = None,
    ) -> ObjectInfo:
        def fill(file: BinaryIO) -> None:
            with path.open("rb") as source:
                _copy(source, file, on_progress)

        info = self._put(name, fill, if_generation)
        if info.crc32c != crc32c_file(path):
            raise StorageError(f"{self.folder / name}: is not what {path} holds: the checksum differs")
        return info

    def download(self, name: str, path: Path, *, on_progress: Progress | None = None) -> ObjectInfo:
        info = self.stat(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "is not there", str(self._path(name)))
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        with _told(path):
            try:
                with self._path(name).open("rb") as source, temporary.open("wb") as file:
                    _copy(source, file, on_progress)
                    _flush(file)
                if crc32c_file(temporary) != info.crc32c:
                    raise StorageError(f"{self._path(name)}: changed while it was read")
                temporary.replace(path)
                sync(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return info

    def delete(self, name: str, *, if_generation: int | None = None) -> None:
        path = self._path(name)
        if not self.folder.is_dir():
            return
        with _told(path), self._guard():
            if if_generation is not None and path.exists():
                self._require(name, path, if_generation)
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync(path.parent)

    def _put(self, name: str, fill: Callable[[BinaryIO], None], if_generation: int | None) -> ObjectInfo:
        path = self._path(name)
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(self.folder.resolve()):
                raise StorageError(f"{path}: a link leads out of {self.folder}")
            temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
            with self._guard():
                _sweep(path.parent)
                file = temporary.open("xb")
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                fill(file)
                _flush(file)
                with self._guard():
                    before = _generation(path)
                    if if_generation is not None:
                        self._require(name, path, if_generation)
                    moment = max(time.time_ns(), before + 1)
                    os.utime(temporary, ns=(moment, moment))
                    temporary.replace(path)
                    sync(path.parent)
                    info = self._stat(name, path)
            finally:
                file.close()
                temporary.unlink(missing_ok=True)
        assert info is not None
        return info

    def _require(self, name: str, path: Path, if_generation: int) -> None:
        if _generation(path) != if_generation:
            reason = "is there already" if if_generation == 0 else "was written by somebody else meanwhile"
            raise PreconditionError(f"{self.folder / name}: {reason}")

    def _path(self, name: str) -> Path:
        return self.folder / check_name(name)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One process and one thread at a time. The guard file is there only while it is held."""
        path = self.folder / GUARD
        deadline = time.monotonic() + GUARD_TIMEOUT
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before us has removed its file: what we locked may be no longer there.
                if _same_file(descriptor, path):
                    break
            except BlockingIOError:
                time.sleep(0.002)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{path}: another process holds it for more than {GUARD_TIMEOUT:.0f} s"
                )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """Turn what the file system says about ``place`` into a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"{place}: the disk is full", hint="free some space; the same command then goes on"
            ) from error
        place = Path(error.filename or place)
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise AccessError(f"{place}: {error.strerror}") from error
        raise StorageError(f"{place}: {error.strerror or error}") from error


def _sweep(folder: Path) -> None:
    """Remove what killed writers left: a living one holds a lock on its temporary file."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _same_file(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _generation(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _copy(source: BinaryIO, target: BinaryIO, on_progress: Progress | None) -> None:
    done = 0
    while block := source.read(BLOCK):
        target.write(block)
        done += len(block)
        if on_progress:
            on_progress(done)
