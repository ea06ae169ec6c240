"""What can be made again (converted bases, copied files, tokens) lies in a cache, whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from packtrain.errors import StorageError
from packtrain.rundir import sync


def cache_folder() -> Path:
    """``PACKTRAIN_CACHE``, else ``packtrain`` in the user's cache folder (XDG)."""
    named = os.environ.get("PACKTRAIN_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser().absolute() / "packtrain"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``build(temporary folder)`` unless it is there already.

    It appears by a rename, with its content on the disk. One process builds, others wait for it.
    Errors: :class:`StorageError` for a disk that is full or read-only, and what ``build`` raises.
    """
    if folder.is_dir():
        return folder
    with locked(folder):
        if folder.is_dir():
            return folder
        temporary = folder.with_name(folder.name + ".tmp")
        # Ours alone under the lock: what is there was left by a process that was killed.
        shutil.rmtree(temporary, ignore_errors=True)
        with storage_errors(folder):
            temporary.mkdir()
        try:
            build(temporary)
            with storage_errors(folder):
                for path in (*temporary.rglob("*"), temporary):
                    sync(path)
                temporary.rename(folder)
                sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path``.lock; the system frees it when the process ends, however it ends."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(path.name + ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            hint="PACKTRAIN_CACHE names another folder for what can be made again",
        ) from error
