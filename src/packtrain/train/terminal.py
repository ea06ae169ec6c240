"""What a run prints must not end it: its terminal may be closed, and whoever reads its output may go.

Training takes hours, and a connection that breaks, or a ``| head`` that has seen enough, costs nothing
then but what it would have shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO, Any


class Outlived:
    """A stream that drops what nobody can read any more; all else as the stream below it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def _let_go(self) -> None:
        """Nobody reads the descriptor from now on: what is still in a buffer finds a place to go, too."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def outlived_output() -> Iterator[None]:
    """Standard output and error may go while it is entered."""
    # They are no IO of typing's, and all that writes to them asks for what is passed on.
    out, err = Outlived(sys.stdout), Outlived(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        yield
