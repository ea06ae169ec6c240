"""Local folders and Google Cloud Storage behind one small interface."""

from __future__ import annotations

from pathlib import Path

from packtrain.errors import ConfigError
from packtrain.storage.base import ObjectInfo, PreconditionError, Progress, Storage
from packtrain.storage.local import LocalStorage

__all__ = ["ObjectInfo", "PreconditionError", "Progress", "Storage", "is_bucket", "open_storage"]


def is_bucket(uri: str | Path) -> bool:
    """Whether ``uri`` is in Google Cloud Storage (else it is a folder)."""
    return str(uri).startswith("gs://")


def open_storage(uri: str | Path) -> Storage:
    """The storage at ``gs://BUCKET/PREFIX`` or in a folder, which need not exist yet.

    Raises :class:`~packtrain.errors.ConfigError` for another scheme or a name that no bucket can
    have, and :class:`~packtrain.errors.AccessError` where a bucket is asked for without credentials.
    """
    text = str(uri)
    if is_bucket(text):
        from packtrain.storage.gcs import GcsStorage

        return GcsStorage(text)
    if "://" in text:
        raise ConfigError(f"{text}: is neither a folder nor gs://BUCKET/PREFIX")
    return LocalStorage(Path(text))
