"""The SHA-256 of a data file; of a large one it is remembered, so that a second start does not read it.

It is remembered for the file's place and state: device, inode, size, and the times of its last change of
content and of anything (ctime, which no program can set). A file that changed a moment ago is not
remembered: it might change once more within one tick of the clock.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from packtrain.errors import StorageError
from packtrain.rundir import write_atomically
from packtrain.storage.cache import cache_folder
from packtrain.storage.checksums import sha256_file

#: Smaller files are read: that takes less than a tenth of a second.
LARGE = 1 << 26
#: Seconds that a file must have been left alone.
SETTLED = 2.0
#: Of a file that is not read whole.
SAMPLES, SAMPLE_BYTES = 4, 1 << 16
#: So many are remembered, those that were made last.
KEEP = 64
_HEX = frozenset("0123456789abcdef")


def sampled_sha256(path: Path) -> str:
    """In hex, over the size and four samples of 64 KiB: of a file that nobody has the time to read whole."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek(size * sample // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """In hex. Errors: OSError where the file cannot be read."""
    state = path.stat()
    if state.st_size < LARGE:
        return sha256_file(path)
    facts = (path.resolve(), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    name = hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:40]
    place = cache_folder() / "hashes" / name
    with suppress(OSError, UnicodeDecodeError):
        known = place.read_text(encoding="ascii")
        if len(known) == 64 and set(known) <= _HEX:
            return known
    found = sha256_file(path)
    if time.time() - max(state.st_mtime, state.st_ctime) > SETTLED:
        with suppress(OSError, StorageError):  # it is read again at the next start
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(place, found.encode())
            made = sorted(place.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            for old in made[KEEP:]:
                old.unlink(missing_ok=True)
    return found
