"""One checkpoint on disk: the state after a completed optimizer step, complete or not there.

``step-N/`` holds the trained weights and the optimizer as safetensors, in one part or several, and
``state.json``. It is written under a temporary name, and ``commit.json``, with the digests of the
others, is written last; a folder without a matching one does not count.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from packtrain.errors import StorageError
from packtrain.rundir import sync, write_atomically
from packtrain.storage.checksums import digests
from packtrain.train.checkpoint_state import MOMENTS, STATE, VERSION, WEIGHTS, Snapshot, files_of

COMMIT = "commit.json"
NAME = re.compile(r"step-(\d+)")
#: Bytes that a checkpoint needs beside its files' own.
ROOM = 64 << 10
#: Bytes and SHA-256 of files, by name.
Facts = dict[str, tuple[int, str]]
#: What a full or broken disk raises.
UNWRITTEN = (OSError, SafetensorError, StorageError)


@dataclass(frozen=True)
class Commit:
    """The content of ``commit.json``: what the files are, and who wrote them."""

    step: int
    attempt: int
    token: int
    """The writer's fencing token: grows with every owner of the run's lock."""
    files: Facts

    @property
    def name(self) -> str:
        return f"step-{self.step}"

    @property
    def order(self) -> tuple[int, int, int]:
        """The highest one is the run's state: a later attempt has superseded an earlier one's steps."""
        return self.attempt, self.token, self.step

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for size, _ in self.files.values())

    def to_json(self) -> bytes:
        return (json.dumps({"version": VERSION, **asdict(self)}) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Commit:
        """Errors: ``ValueError`` for anything but a commit of this version."""
        try:
            content = json.loads(data)
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}")
            files = {name: (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
            if files.keys() != files_of(len(files) // 2):
                raise ValueError(f"{COMMIT} does not name the files of a checkpoint")
            return cls(int(content["step"]), int(content["attempt"]), int(content["token"]), files)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{COMMIT} is not a commit ({error!r})") from error


def temporary_folder(folder: Path, snapshot: Snapshot, save: int) -> Path:
    """Where the ``save``-th checkpoint of an attempt is written, by all ranks that write a part of it."""
    return folder / f".step-{snapshot.state.step}.{save}.tmp"


def write_part(temporary: Path, snapshot: Snapshot) -> Facts:
    """Write the tensors of ``snapshot`` into ``temporary``; on the disk when this returns.

    Errors: :data:`UNWRITTEN`.
    """
    facts = {}
    temporary.mkdir(parents=True, exist_ok=True)
    for kind, tensors in ((WEIGHTS, snapshot.adapter), (MOMENTS, snapshot.moments)):
        path = temporary / snapshot.part.file(kind)
        save_file(dict(tensors), path)
        sync(path)
        facts[path.name] = digests(path)[:2]
    return facts


def write(
    folder: Path,
    snapshot: Snapshot,
    *,
    attempt: int,
    token: Callable[[], int],
    save: int = 1,
    others: Callable[[], Facts] = dict,
) -> Commit:
    """Write ``folder/step-N``, complete and on the disk when this returns.

    ``token()`` is asked just before the commit, and may raise where the run's lock is lost.
    ``others()`` waits for the parts that other ranks write, and says what they are.
    Errors: :class:`StorageError`; nothing that was there before is harmed.
    """
    target = folder / f"step-{snapshot.state.step}"
    temporary = temporary_folder(folder, snapshot, save)
    try:
        facts = write_part(temporary, snapshot)
        (temporary / STATE).write_text(snapshot.state.to_json())
        sync(temporary / STATE)
        facts[STATE] = digests(temporary / STATE)[:2]
        facts |= others()
        commit = Commit(snapshot.state.step, attempt, token(), facts)
        write_atomically(temporary / COMMIT, commit.to_json())
        install(temporary, target)
    except UNWRITTEN as error:
        raise StorageError(
            f"cannot write the checkpoint {target}: {error}",
            hint="is the disk full? the run goes on from the last one",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return commit


def install(temporary: Path, target: Path) -> None:
    """Let a folder that is complete, and on the disk, appear under its name.

    One that has the name already is whole, aside, until then: :func:`sweep` finds it, or the new one.
    """
    aside = target.parent / f".{target.name}.old.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(FileNotFoundError):
        target.rename(aside)
    temporary.rename(target)
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed saves left; a whole one that had no name at that moment gets it."""
    for left in sorted(folder.glob(".step-*.tmp")):
        try:
            commit = Commit.from_json((left / COMMIT).read_bytes())
            if not (folder / commit.name).exists() and damage(left, commit) is None:
                left.rename(folder / commit.name)
                sync(folder)
        except (OSError, ValueError):
            pass  # it was not complete
        shutil.rmtree(left, ignore_errors=True)


def commits(folder: Path) -> tuple[list[Commit], dict[str, str]]:
    """The committed checkpoints in ``folder``, newest first, and what is wrong with others by name.

    Their files are not looked at; see :func:`damage`.
    """
    found, bad = [], {}
    for path in folder.glob("step-*"):
        match = NAME.fullmatch(path.name)
        if match is None:
            continue
        try:
            commit = Commit.from_json((path / COMMIT).read_bytes())
            if commit.step != int(match[1]):
                bad[path.name] = f"{COMMIT} is that of step {commit.step}"
            else:
                found.append(commit)
        except FileNotFoundError:
            bad[path.name] = f"{COMMIT} is missing"
        except (OSError, ValueError) as error:
            bad[path.name] = f"it cannot be read ({error})"
    return sorted(found, key=lambda commit: commit.order, reverse=True), bad


def prune(
    folder: Path, keep: int, unwanted: frozenset[str] = frozenset(), busy: frozenset[str] = frozenset()
) -> None:
    """Leave the newest ``keep``, and ``busy`` ones; ``unwanted`` (names) and incomplete ones go first.

    Only after a write: then at least one that is good stays.
    """
    found, bad = commits(folder)
    stay = {commit.name for commit in [one for one in found if one.name not in unwanted][:keep]} | busy
    for name in {commit.name for commit in found} | bad.keys():
        if name not in stay:
            # The commit first: a checkpoint that is half gone is not taken for a whole one.
            (folder / name / COMMIT).unlink(missing_ok=True)
            shutil.rmtree(folder / name, ignore_errors=True)


def make_room(folder: Path) -> None:
    """Where the disk has no room for one more like the newest, leave only that: the newest that is good."""
    found, _ = commits(folder)
    if len(found) < 2 or shutil.disk_usage(folder).free > 1.1 * found[0].size + ROOM:
        return
    good = next((one for one in found if damage(folder / one.name, one) is None), None)
    if good is not None:
        prune(folder, 1, unwanted=frozenset(one.name for one in found if one is not good))


def damage(path: Path, commit: Commit) -> str | None:
    """What is wrong with the files of a checkpoint, read whole; None where nothing is."""
    for name, expected in commit.files.items():
        try:
            if digests(path / name)[:2] != expected:
                return f"{name} is not what was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None
