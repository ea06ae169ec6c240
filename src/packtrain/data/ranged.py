"""A file that lies elsewhere, read in place: only the parts that are asked for come here, and none stays.

Reading in order asks for a block at a time; a parquet file's reader seeks for what it needs.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

#: Bytes of a request when a file is read in order.
BLOCK = 8 << 20

#: ``read(start, count)`` gives these bytes, all of which the file has.
ReadRange = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Afar:
    """Where a file is read that is not on this machine."""

    size: int
    identity: str
    """The same while its content is the same: a checksum, or a commit with a path in it."""
    read: ReadRange

    def open(self) -> IO[bytes]:
        """At its beginning. Errors while it is read: those of :attr:`read`."""
        return cast(IO[bytes], io.BufferedReader(_RangeFile(self.size, self.read), BLOCK))


class _RangeFile(io.RawIOBase):
    def __init__(self, size: int, read: ReadRange) -> None:
        super().__init__()
        self._size, self._read, self._position = size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        if count:
            buffer[:count] = self._read(self._position, count)
            self._position += count
        return count
