"""A folder that is made whole or not at all, in place of what was there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packtrain.errors import StorageError
from packtrain.rundir import sync


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new, empty folder to write files into, which then is ``folder``: synced, then renamed.

    A folder cannot be renamed onto one that is not empty, so there is an instant without ``folder``;
    a run that dies in it writes its result again from its checkpoint. Where the block raises, ``folder``
    stays what it was; an OSError becomes a :class:`StorageError`.
    """
    new = folder.with_name(f".{folder.name}.new")
    old = folder.with_name(f".{folder.name}.old")
    try:
        for stale in (new, old):
            shutil.rmtree(stale, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        for path in new.iterdir():
            sync(path)
        sync(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync(folder.parent)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
