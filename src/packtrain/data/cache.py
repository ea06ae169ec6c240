"""Tokenised rows are kept under ``PACKTRAIN_CACHE``, so that a second start takes none of the work.

An entry is named by all that its tokens follow from: the files' contents and names, the tokenizer, the
template, the settings, the libraries' versions and this package's own code. It is built under a lock
and appears by a rename; one that is torn or corrupt is made again. Rows may be private: the folder is
for its owner alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from packtrain.config import DataConfig
from packtrain.data.sources import Source
from packtrain.data.token_files import Damaged, Entry, read_entry
from packtrain.storage.cache import build_once, cache_folder, locked

#: So many entries stay, those that were used last.
KEEP = 8
#: After so many seconds what a killed process left half made is removed.
STALE = 24 * 3600.0
#: The settings that a source's tokens depend on; the split and the packing are made at each start.
SETTINGS = (
    "format", "columns", "roles", "system", "reasoning", "weight_column",
    "max_length", "too_long", "on_bad_row", "max_bad_rows", "limit",
)  # fmt: skip
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow", "numpy")


def entry_key(config: DataConfig, source: Source, template: str) -> str:
    """The name of the entry for ``source``; ``template`` identifies tokenizer and chat template."""
    files = [[file["name"], file["bytes"], file["sha256"]] for file in source.description["files"]]
    facts: dict[str, Any] = {
        "files": files,
        "template": template,
        "settings": {name: getattr(config, name) for name in SETTINGS},
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


@cache
def _code() -> str:
    """SHA-256 over the code that makes tokens of rows: an entry of other code is another entry."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def usable_folder() -> tuple[Path | None, str]:
    """Where entries lie, made if need be; or None, and why that cannot be."""
    folder = cache_folder() / "tokens"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        return None, error.strerror or str(error)
    if not os.access(folder, os.W_OK | os.X_OK):
        return None, "it may not be written"
    return folder, ""


def remembered(folder: Path, key: str, make: Callable[[Path], None]) -> tuple[Entry, str | None]:
    """The entry ``key`` in ``folder``, which ``make(temporary folder)`` fills where it is not there.

    Also a sentence where an entry was there, but not whole. One process makes it, others wait. Errors:
    StorageError (the disk is full), and what ``make`` raises.
    """
    place, note = folder / key, None
    for _ in range(3):
        try:
            entry = read_entry(place)
        except FileNotFoundError:
            build_once(place, make)
            continue
        except Damaged as damage:
            note = f"tokens that were kept are damaged, and were made again ({damage})"
            _remove_damaged(place)
            continue
        with suppress(OSError):
            os.utime(place)  # used last
        _tidy(folder)
        return entry, note
    raise AssertionError(f"{place} was taken away, or damaged, again and again")


def _remove_damaged(place: Path) -> None:
    with locked(place), suppress(FileNotFoundError):
        try:
            read_entry(place)  # another process may have been first
        except Damaged:
            shutil.rmtree(place)


def _tidy(folder: Path) -> None:
    """Let go of the entries that were not used for longest, and of what was left half made.

    A process that still uses an entry keeps it: its files are mapped.
    """
    with suppress(OSError):
        paths = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        made = [path for path in paths if path.is_dir() and path.suffix != ".tmp"]
        names = {path.name for path in made[:KEEP]}
        left = [path for path in paths if path.suffix in (".tmp", ".lock") and path.stem not in names]
        old = [path for path in left if time.time() - path.stat().st_mtime > STALE]
        for path in [*made[KEEP:], *old]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
