"""One small interface for local folders and buckets; callers never ask which.

Names are relative to the storage's own prefix and use ``/``. A generation is a number that
changes with every write of an object; ``if_generation=0`` means "only if it is not there", any
other number "only if it is still that one". See
https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packtrain.errors import ConflictError

#: Called with the bytes done so far of one transfer. A retry may take some of them back.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class ObjectInfo:
    name: str
    size: int
    """Bytes."""
    crc32c: str
    """CRC32C of the content, big-endian, in base64, as Google Cloud Storage states it."""
    generation: int
    updated: float
    """Seconds since 1970 by the server's clock."""


class PreconditionError(ConflictError):
    """The object is not of the generation that was asked for: somebody else wrote it."""


class Storage(Protocol):
    """Errors: :class:`PreconditionError`, :class:`~packtrain.errors.AccessError` (refused),
    :class:`~packtrain.errors.UnavailableError` (gone after retries),
    :class:`~packtrain.errors.StorageError` (disk full, checksum differs), and
    ``FileNotFoundError`` for an object that is not there."""

    uri: str

    def stat(self, name: str) -> ObjectInfo | None: ...

    def list(self, prefix: str = "") -> list[ObjectInfo]: ...

    def read(self, name: str) -> bytes: ...

    def read_range(self, name: str, start: int, count: int, generation: int) -> bytes:
        """So many bytes of this generation, which has them."""
        ...

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> ObjectInfo:
        """Small objects, in one request: all or nothing."""
        ...

    def upload(
        self,
        name: str,
        path: Path,
        *,
        if_generation: int | None = None,
        on_progress: Progress | None = None,
    ) -> ObjectInfo:
        """A file of any size; its checksum is compared with what the server says."""
        ...

    def download(self, name: str, path: Path, *, on_progress: Progress | None = None) -> ObjectInfo:
        """To ``path``, atomically; the checksum is compared."""
        ...

    def delete(self, name: str, *, if_generation: int | None = None) -> None:
        """An object that is not there is no error."""
        ...

    def close(self) -> None:
        """Let go of connections; the storage is not used after it."""
        ...
