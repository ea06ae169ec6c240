"""The copies of checkpoints in a bucket: ``checkpoints/step-N/…``, with ``commit.json`` last.

Every write carries a precondition, so that of two writers one notices, and a reader takes only
what a commit vouches for. What an upload that was cut has left is used by the next try.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from packtrain.errors import ConflictError, PacktrainError, StorageError
from packtrain.rundir import write_atomically
from packtrain.storage import ObjectInfo, PreconditionError, Storage
from packtrain.storage.checksums import crc32c_file
from packtrain.train.checkpoint_files import COMMIT, NAME, Commit, damage, install

ROOT = "checkpoints"


class GivenUp(Exception):
    """An upload was ended half-way, because a newer checkpoint is more urgent."""


class RemoteCheckpoints:
    """The checkpoints of one run in ``storage``, which is at the run's place. For one thread at a time."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._read: dict[tuple[str, int], Commit | None] = {}

    def commits(self) -> list[Commit]:
        """The committed ones, newest first. Errors: those of :class:`Storage`."""
        return self._commits(self._list())

    def put(
        self,
        path: Path,
        commit: Commit,
        *,
        writer: tuple[int, int],
        before_commit: Callable[[], None],
        give_up: Callable[[], bool],
    ) -> None:
        """Copy the checkpoint in ``path``; it counts from the last request on.

        ``writer``: attempt and token of whoever asks; ``before_commit`` may raise to prevent the commit.
        Errors: :class:`ConflictError` where a later writer has been here, :class:`GivenUp` where
        ``give_up()`` says so between two chunks, and those of :class:`Storage`.
        """
        infos = self._list()
        for other in self._commits(infos):
            if other.order[:2] > writer:
                raise ConflictError(
                    f"{self.storage.uri}: attempt {other.attempt} has saved {other.name} meanwhile",
                    hint="another process goes on with this run",
                )
            if other == commit:
                return
        place = f"{ROOT}/{commit.name}"

        def on_progress(_sent: int) -> None:
            if give_up():
                raise GivenUp

        old = infos.get(f"{place}/{COMMIT}")
        if old is not None:
            # Of an attempt that is superseded: not complete any more, before its files change.
            self.storage.delete(old.name, if_generation=old.generation)
        for name in commit.files:
            on_progress(0)
            there = infos.get(f"{place}/{name}")
            if there is not None and _same(path / name, there):
                continue
            generation = there.generation if there is not None else 0
            self.storage.upload(
                f"{place}/{name}", path / name, if_generation=generation, on_progress=on_progress
            )
        before_commit()
        self.storage.write(f"{place}/{COMMIT}", commit.to_json(), if_generation=0)

    def get(self, commit: Commit, folder: Path) -> str | None:
        """Bring a checkpoint to ``folder/step-N``, whole; else what is wrong with it.

        Errors: those of :class:`Storage`, and :class:`StorageError` for a disk that is full.
        """
        temporary = folder / f".{commit.name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name in commit.files:
                self.storage.download(f"{ROOT}/{commit.name}/{name}", temporary / name)
            problem = damage(temporary, commit)
            if problem is None:
                write_atomically(temporary / COMMIT, commit.to_json())
                install(temporary, folder / commit.name)
        except FileNotFoundError:
            return "a file is missing"
        except StorageError as error:
            if isinstance(error.__cause__, OSError):
                raise  # our disk, not the bucket
            return str(error)
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return problem

    def prune(self, keep: int, unwanted: frozenset[str] = frozenset()) -> None:
        """Leave the newest ``keep``; ``unwanted`` (names) and what is incomplete go first.

        Only after a commit: then at least one that is good stays. What fails is done the next time.
        """
        infos = self._list()
        good = [commit.name for commit in self._commits(infos) if commit.name not in unwanted]
        stay = set(good[:keep])
        # Commits first: a checkpoint that is half gone is not taken for a whole one.
        for info in sorted(infos.values(), key=lambda info: not info.name.endswith(f"/{COMMIT}")):
            if info.name.split("/")[1] not in stay:
                with suppress(PreconditionError):
                    self.storage.delete(info.name, if_generation=info.generation)

    def _list(self) -> dict[str, ObjectInfo]:
        infos = self.storage.list(f"{ROOT}/")
        return {info.name: info for info in infos if NAME.fullmatch(info.name.split("/")[1])}

    def _commits(self, infos: dict[str, ObjectInfo]) -> list[Commit]:
        seen = {
            (info.name, info.generation): self._commit(info)
            for info in infos.values()
            if info.name.endswith(f"/{COMMIT}")
        }
        self._read = seen
        found = [commit for commit in seen.values() if commit is not None]
        return sorted(found, key=lambda commit: commit.order, reverse=True)

    def _commit(self, info: ObjectInfo) -> Commit | None:
        key = (info.name, info.generation)
        if key not in self._read:
            try:
                commit = Commit.from_json(self.storage.read(info.name))
            except (ValueError, FileNotFoundError):
                return None
            return commit if info.name == f"{ROOT}/{commit.name}/{COMMIT}" else None
        return self._read[key]


def _same(path: Path, info: ObjectInfo) -> bool:
    return path.stat().st_size == info.size and crc32c_file(path) == info.crc32c


def prune_quietly(remote: RemoteCheckpoints, keep: int, unwanted: frozenset[str]) -> None:
    """:meth:`RemoteCheckpoints.prune`, for when a failure must not count against what was saved."""
    with suppress(PacktrainError):
        remote.prune(keep, unwanted)
