"""TensorBoard's files in the run's bucket: ``tensorboard --logdir gs://…`` reads them there.

An object cannot be appended to, so that the file which grows is sent whole; the writer begins another
before that is much. Names tell the attempt and the machine: nothing is written over that is not our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from packtrain.report.tensorboard import FOLDER
from packtrain.storage import Storage
from packtrain.train.background import Outage, Worker

#: Seconds between two copies: TensorBoard itself looks every thirty.
EVERY = 30.0
#: Seconds for the last copy.
LAST = 10.0


class BoardMirror:
    """Sends what has grown in ``run``/tensorboard, and what an earlier attempt here could not send."""

    def __init__(self, run: Path, remote: Storage, *, every: float = EVERY) -> None:
        self._folder, self._remote = run / FOLDER, remote
        self._sent: dict[str, int] | None = None
        # A bucket that is away is told of by the events, which go to the same place.
        outage = Outage("TensorBoard's files are not copied", "it is tried again", "they are copied again")
        self._worker = Worker("tensorboard", self.push, outage, every=every)

    def push(self) -> None:
        """Errors: those of :class:`Storage`."""
        if self._sent is None:
            there = self._remote.list(f"{FOLDER}/")
            self._sent = {info.name.removeprefix(f"{FOLDER}/"): info.size for info in there}
        for name, size in self._sizes().items():
            if size != self._sent.get(name):
                data = (self._folder / name).read_bytes()
                self._remote.write(f"{FOLDER}/{name}", data)
                self._sent[name] = len(data)

    def close(self, timeout: float) -> None:
        """Once more, within ``timeout`` seconds."""
        self._worker.wait(timeout)
        self._worker.stop(0.0)

    def _sizes(self) -> dict[str, int]:
        if not self._folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in sorted(self._folder.iterdir()) if path.is_file()}


@contextmanager
def board_copied(run: Path, remote: Storage | None, seconds_left: Callable[[], float]) -> Iterator[None]:
    """While an attempt goes on; ``remote``: its place in a bucket, where it has one."""
    if remote is None:
        yield
        return
    mirror = BoardMirror(run, remote)
    try:
        yield
    finally:
        mirror.close(min(LAST, seconds_left()))
