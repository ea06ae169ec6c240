"""A pseudo-terminal, and all that a program has shown on it."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    end: int
    """The descriptor for the program; it is closed at the end."""
    got: list[bytes] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """All that came, once the terminal is closed."""
        return b"".join(self.got).decode(errors="replace")

    @property
    def plain(self) -> str:
        """Without colours and movements."""
        return _ESCAPE.sub("", self.shown)


@contextmanager
def terminal() -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    made = Terminal(theirs)

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                made.got.append(data)
        except OSError:
            return  # Linux says EIO where the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield made
    finally:
        os.close(theirs)
        reader.join(10)
        os.close(ours)
