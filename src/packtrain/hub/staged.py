"""Copies of pinned repositories in a bucket: made once by ``packtrain stage``, read by pods that ask no hub.

``STAGED/models--OWNER--NAME/COMMIT/`` holds the files, the hub's list of them, and ``staged.json``, which
is written last and says size and checksums of each: what it does not name is not there yet. They come
back into the Hugging Face cache, so that whoever reads that finds them, with ``HF_HUB_OFFLINE=1``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import ConfigError, StorageError
from packtrain.hub.access import RepoType
from packtrain.storage import Storage, open_storage
from packtrain.storage.cache import locked
from packtrain.storage.checksums import digests

#: The environment's name for the place that pods read from.
STAGED = "PACKTRAIN_STAGED"
MANIFEST, TREE = "staged.json", "tree.json"
VERSION = 1
#: Files that are copied at a time.
THREADS = 8

Say = Callable[[str], None]
#: Called with a file's name, the bytes done of it, and all.
FileProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Pinned:
    """A commit of a repository of the hub."""

    repository: str
    commit: str
    kind: RepoType = "model"

    @property
    def name(self) -> str:
        """As the Hugging Face cache calls its folder."""
        return f"{self.kind}s--" + self.repository.replace("/", "--")

    @property
    def cached(self) -> Path:
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE) / self.name

    @property
    def snapshot(self) -> Path:
        return self.cached / "snapshots" / self.commit

    @property
    def tree(self) -> Path:
        """Where the cache has the hub's list of the commit's files."""
        return self.cached / "trees" / f"{self.commit}.json"

    def place(self, uri: str) -> str:
        return f"{uri.rstrip('/')}/{self.name}/{self.commit}"


@dataclass(frozen=True)
class Copied:
    """What of a repository is in the bucket now."""

    pinned: Pinned
    files: int
    bytes: int
    sent: int
    """Bytes that were not there before."""


def copy_out(
    pinned: Pinned, names: Iterable[str], uri: str, *, on_progress: FileProgress | None = None
) -> Copied:
    """Copy these files of a commit, which the cache has, below ``uri``; what is there is compared, not sent.

    Errors: those of :class:`~packtrain.storage.Storage`.
    """
    with closing(open_storage(pinned.place(uri))) as storage:
        known = _manifest(storage) or {}

        def copy(name: str) -> tuple[str, dict[str, Any], int]:
            path = pinned.snapshot / name
            size, sha256, crc32c = digests(path)
            facts = {"bytes": size, "sha256": sha256, "crc32c": crc32c}
            there = storage.stat(f"files/{name}")
            if there is not None and (there.size, there.crc32c) == (size, crc32c):
                return name, facts, 0

            def tell(done: int) -> None:
                if on_progress:
                    on_progress(f"{pinned.repository}/{name}", done, size)

            storage.upload(f"files/{name}", path, on_progress=tell)
            return name, facts, size

        done = _in_parallel(copy, sorted(set(names)))
        storage.write(TREE, pinned.tree.read_bytes())
        files = known | {name: facts for name, facts, _ in done}
        content = {
            "version": VERSION,
            "repository": pinned.repository,
            "commit": pinned.commit,
            "files": dict(sorted(files.items())),
        }
        storage.write(MANIFEST, json.dumps(content, indent=1).encode() + b"\n")
    size = sum(facts["bytes"] for _, facts, _ in done)
    return Copied(pinned, len(done), size, sum(sent for *_, sent in done))


def bring_in(
    pinned: Pinned, allow: Sequence[str], ignore: Sequence[str], on_progress: Say | None = None
) -> bool:
    """Put what matches into the Hugging Face cache, verified; False where the environment names no place.

    Errors: :class:`ConfigError` for a commit that was not staged, :class:`StorageError` for a file that is
    not what was staged, and those of :class:`~packtrain.storage.Storage`.
    """
    uri = os.environ.get(STAGED)
    if not uri:
        return False
    from huggingface_hub.utils import filter_repo_objects

    with closing(open_storage(pinned.place(uri))) as storage, locked(pinned.cached):
        files = _manifest(storage)
        if files is None:
            raise ConfigError(
                f"{pinned.repository} at {pinned.commit[:12]} is not in {uri}",
                hint="run `packtrain stage RUN` with this run file, or remove cluster.staged",
            )
        wanted = [
            name
            for name in filter_repo_objects(
                list(files), allow_patterns=list(allow), ignore_patterns=list(ignore) or None
            )
            if not _is_there(pinned.snapshot / name, files[name])
        ]
        size = sum(int(files[name]["bytes"]) for name in wanted)
        if wanted and on_progress:
            on_progress(f"copying {pinned.repository} from {uri}: {size / 1e9:.1f} GB")

        def bring(name: str) -> None:
            path = pinned.snapshot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            got = storage.download(f"files/{name}", path)
            if (got.size, got.crc32c) != (files[name]["bytes"], files[name]["crc32c"]):
                path.unlink()
                raise StorageError(
                    f"{storage.uri}/files/{name}: is not what was staged",
                    hint="run `packtrain stage RUN` again",
                )

        _in_parallel(bring, wanted)
        if not pinned.tree.exists():
            pinned.tree.parent.mkdir(parents=True, exist_ok=True)
            storage.download(TREE, pinned.tree)
    return True


def _is_there(path: Path, facts: dict[str, Any]) -> bool:
    """It came by a rename, when its checksum was known to be right."""
    return path.exists() and path.stat().st_size == facts["bytes"]


def _manifest(storage: Storage) -> dict[str, dict[str, Any]] | None:
    """The files that are there, by name; None where nothing was staged, or not to its end."""
    try:
        content = json.loads(storage.read(MANIFEST))
        found: dict[str, dict[str, Any]] = content["files"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{storage.uri}/{MANIFEST}: cannot be read ({error})") from error
    return found


def _in_parallel(work: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
    with ThreadPoolExecutor(THREADS, "packtrain-stage") as threads:
        pending = [threads.submit(work, name) for name in names]
        try:
            return [each.result() for each in pending]
        except BaseException:
            for each in pending:
                each.cancel()
            raise
