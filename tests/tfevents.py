"""TensorBoard's file format, read by what is published of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any


def records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        record = data[at + 12 : at + 12 + length]
        assert len(record) == length
        at += 16 + length
        yield record


def fields(data: bytes) -> list[tuple[int, Any]]:
    """Number and value of a protobuf message's fields."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        number, kind = key >> 3, key & 7
        value: Any
        if kind == 0:
            value = varint()
        elif kind == 1:
            (value,) = struct.unpack_from("<d", data, at)
            at += 8
        elif kind == 5:
            (value,) = struct.unpack_from("<f", data, at)
            at += 4
        else:
            size = varint()
            value = data[at : at + size]
            at += size
        found.append((number, value))
    return found
