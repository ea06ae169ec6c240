"""A folder as the Hugging Face hub describes a repository: commit, blobs, tree."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

#: Files from this size on are "LFS" files: named by their sha256, as weights are on the hub.
LFS_BYTES = 100_000


def commit_of(folder: Path) -> str:
    """Forty hexadecimal digits that depend on names and content."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in files_of(folder):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def tree_entry(folder: Path, path: Path) -> dict[str, Any]:
    """One file in the form of the tree API."""
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry = {"type": "file", "oid": blob, "size": len(data), "path": path.relative_to(folder).as_posix()}
    if len(data) >= LFS_BYTES:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def tree(folder: Path, under: str, recursive: bool) -> list[dict[str, Any]]:
    root = folder / under
    entries: list[dict[str, Any]] = []
    for path in sorted(root.rglob("*") if recursive else root.glob("*")):
        if path.is_file():
            entries.append(tree_entry(folder, path))
        else:
            entries.append(directory_entry(folder, path))
    return entries


def directory_entry(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    oid = hashlib.sha1(os.fsencode(name), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": name}


def paths_info(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    found = [folder / name for name in names if (folder / name).exists()]
    return [tree_entry(folder, path) if path.is_file() else directory_entry(folder, path) for path in found]
