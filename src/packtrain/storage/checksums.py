"""Checksums of files: CRC32C, which Google Cloud Storage states, and SHA-256, which everybody can check."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 1 << 20


class Digests(NamedTuple):
    bytes: int
    sha256: str
    """Hexadecimal."""
    crc32c: str
    """Big-endian, in base64, as Google Cloud Storage writes it."""


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def encode_crc32c(value: int) -> str:
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def crc32c_bytes(data: bytes) -> str:
    """CRC32C (RFC 4960, appendix B) of ``data``, big-endian, in base64."""
    import google_crc32c

    return encode_crc32c(google_crc32c.value(data))


def crc32c_file(path: Path) -> str:
    """CRC32C of a file, big-endian, in base64."""
    import google_crc32c

    value = 0
    for block in _blocks(path):
        value = google_crc32c.extend(value, block)
    return encode_crc32c(value)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(path: Path) -> Digests:
    """Size and both checksums of a file, in one read."""
    import google_crc32c

    size, crc, sha = 0, 0, hashlib.sha256()
    for block in _blocks(path):
        size += len(block)
        crc = google_crc32c.extend(crc, block)
        sha.update(block)
    return Digests(size, sha.hexdigest(), encode_crc32c(crc))
