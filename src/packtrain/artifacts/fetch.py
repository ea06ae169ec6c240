"""Bringing an adapter back: nothing is in its folder before all of it is verified against its receipt."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from packtrain.artifacts.publish import CLAIM, FileProgress, read_receipt
from packtrain.artifacts.receipt import RECEIPT, FileFacts
from packtrain.errors import ConflictError, StorageError
from packtrain.rundir import sync, write_atomically
from packtrain.storage import Storage
from packtrain.storage.checksums import digests


class FetchedFile(TypedDict):
    bytes: int
    sha256: str
    crc32c: str
    fetched: bool
    """False for a file that was in the folder already."""


class Fetched(TypedDict):
    source: str
    folder: str
    run_id: str
    files: dict[str, FetchedFile]
    """All of them verified."""
    ignored: list[str]
    """What lies at the source and is not in the receipt; it was left there."""


def fetch(source: Storage, folder: Path, *, on_progress: FileProgress | None = None) -> Fetched:
    """Bring the adapter at ``source`` into ``folder`` and verify each file by size, sha256 and crc32c.

    ``folder`` is new, or empty, or holds the same run's adapter: then only what is missing or wrong
    there is fetched. Raises :class:`~packtrain.errors.ConflictError` for a folder that holds anything
    else, :class:`~packtrain.errors.StorageError` where there is no receipt or a file is not what it says.
    """
    receipt = _receipt(source)
    run_id, files = read_receipt(receipt, f"{source.uri}/{RECEIPT}")
    folder = folder.expanduser().absolute()
    filled = _holds_adapter(folder, run_id)
    wanted = {name: facts for name, facts in files.items() if not _is(folder / name, facts)}
    temporary = folder.with_name(f".{folder.name}.packtrain-fetch")
    try:
        with _alone(temporary):
            _keep_only(temporary, wanted)
            for name, facts in wanted.items():
                if not _is(temporary / name, facts):
                    _bring(source, name, facts, temporary, on_progress)
            write_atomically(temporary / RECEIPT, receipt)
            if filled:
                _move_into(temporary, folder, wanted)
            else:
                temporary.rename(folder)
                sync(folder.parent)
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror or error}") from error
    known = files.keys() | {RECEIPT, CLAIM}
    return Fetched(
        source=source.uri,
        folder=str(folder),
        run_id=run_id,
        files={
            name: FetchedFile(
                bytes=facts.bytes, sha256=facts.sha256, crc32c=facts.crc32c, fetched=name in wanted
            )
            for name, facts in files.items()
        },
        ignored=[info.name for info in source.list() if info.name not in known],
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """``folder``, made if need be, for this process alone; gone afterwards, unless it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(folder, descriptor):
            raise ConflictError(f"{folder}: another fetch into the same folder is running")
        try:
            yield
        finally:
            # Once it was moved to its place, what stands here is not ours to remove.
            if _still_at(folder, descriptor):
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(folder: Path, descriptor: int) -> bool:
    """False where another has it, or had it and moved the folder to its place meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _still_at(folder, descriptor)


def _still_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _keep_only(folder: Path, wanted: Mapping[str, FileFacts]) -> None:
    """What a killed fetch left goes, but for what can still be used."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def _receipt(source: Storage) -> bytes:
    try:
        return source.read(RECEIPT)
    except FileNotFoundError as error:
        there = source.list()
        what = f"has no {RECEIPT}: it is not a verified adapter" if there else "nothing is there"
        hint = "its run was cut while publishing; run that again, and it goes on" if there else None
        raise StorageError(f"{source.uri}: {what}", hint=hint) from error


def _holds_adapter(folder: Path, run_id: str) -> bool:
    """Whether ``folder`` holds this run's adapter already; False for a new or an empty one."""
    if folder.exists() and not folder.is_dir():
        raise ConflictError(f"{folder}: is a file, not a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    try:
        owner, _ = read_receipt((folder / RECEIPT).read_bytes(), str(folder / RECEIPT))
    except (OSError, StorageError):
        owner = None
    if owner != run_id:
        what = "another adapter" if owner else "something else"
        raise ConflictError(
            f"{folder}: is not empty, and holds {what}", hint="name a folder that is new or empty"
        )
    return True


def _is(path: Path, facts: FileFacts) -> bool:
    try:
        return FileFacts(*digests(path)) == facts
    except OSError:
        return False


def _bring(
    source: Storage, name: str, facts: FileFacts, folder: Path, on_progress: FileProgress | None
) -> None:
    def report(done: int) -> None:
        if on_progress:
            on_progress(name, done, facts.bytes)

    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.download(name, path, on_progress=report)
    except FileNotFoundError as error:
        raise StorageError(f"{source.uri}/{name}: is in the receipt, but not there") from error
    found = FileFacts(*digests(path))
    if found.bytes != facts.bytes:
        raise StorageError(f"{source.uri}/{name}: has {found.bytes} bytes, the receipt says {facts.bytes}")
    if found != facts:
        which = "sha256" if found.sha256 != facts.sha256 else "crc32c"
        raise StorageError(f"{source.uri}/{name}: its {which} is not the receipt's: it was changed")


def _move_into(temporary: Path, folder: Path, wanted: Mapping[str, FileFacts]) -> None:
    """File by file, the receipt last: cut in between, the next fetch finds and mends the rest."""
    for name in (*wanted, RECEIPT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / name, folder / name)  # noqa: PTH105
        sync((folder / name).parent)
