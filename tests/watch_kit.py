"""The live view's page, served for as long as a test looks at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packtrain.run.watch_page import PageServer
from packtrain.run.watch_source import Watched
from packtrain.run.watch_view import Standing


@contextmanager
def served(run: Path) -> Iterator[PageServer]:
    server = PageServer(Watched(str(run), lambda _: Standing("", False)), 0)
    thread = threading.Thread(target=server.keep_looking, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
