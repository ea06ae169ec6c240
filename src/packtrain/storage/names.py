"""Names of objects, checked: a name from a receipt or a listing must not lead out of its prefix."""

from __future__ import annotations

from packtrain.errors import StorageError


def check_name(name: str) -> str:
    """``name`` itself, or StorageError for one that is not a relative path inside the prefix.

    At most 900 bytes, so that with a prefix it stays below the 1,024 bytes of Google Cloud Storage.
    """
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise StorageError(f"{name!r}: is not a name inside the storage's folder")
    if any(ord(character) < 32 or ord(character) == 127 for character in name) or "\\" in name:
        raise StorageError(f"{name!r}: has a character that names of files must not have")
    if len(name.encode()) > 900:
        raise StorageError(f"{name[:60]!r}…: is longer than 900 bytes")
    return name
