"""One checkpoint on disk: the state after a completed optimizer step, complete or not there.

``step-N/`` holds the adapter and the optimizer as safetensors, and ``state.json``. It is written
under a temporary name, and ``commit.json``, with the digests of the others, is written last; a
folder without a matching one does not count.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from packtrain.errors import ConfigError, StorageError
from packtrain.model.adapter import Adapter
from packtrain.model.parallel import put, whole
from packtrain.rundir import sync, write_atomically
from packtrain.storage.checksums import digests

VERSION = 1
FILES = ("adapter.safetensors", "optimizer.safetensors", "state.json")
COMMIT = "commit.json"
NAME = re.compile(r"step-(\d+)")
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """What training has come to; all that it needs besides adapter and optimizer to go on."""

    step: int = 0
    """Completed optimizer steps."""
    evaluated: int = -1
    """The last step that was evaluated; 0 is the base."""
    base_loss: float | None = None
    loss: float | None = None
    """The newest validation losses, nats a token."""
    tokens: int = 0
    supervised_tokens: int = 0
    loss_sum: float = 0.0
    """Over all supervised tokens so far."""
    seconds: float = 0.0
    """Of training, over all attempts."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """Data, base and adapter: a checkpoint fits only the same ones."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What `auto` became (micro-batch, threads, …), used again on resume."""

    @property
    def train_loss(self) -> float:
        """Mean over all supervised tokens so far."""
        return self.loss_sum / max(1, self.supervised_tokens)


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in memory: copies on the CPU, which training does not touch any more."""

    state: TrainingState
    adapter: dict[str, Tensor]
    """By peft's names, whole."""
    moments: dict[str, Tensor]
    """``exp_avg:NAME`` and ``exp_avg_sq:NAME`` of AdamW, whole."""
    seconds: float = 0.0
    """That taking it held training up."""


@dataclass(frozen=True)
class Commit:
    """The content of ``commit.json``: what the files are, and who wrote them."""

    step: int
    attempt: int
    token: int
    """The writer's fencing token: grows with every owner of the run's lock."""
    files: dict[str, tuple[int, str]]
    """Bytes and SHA-256 of each."""

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
            files = {name: (int(content["files"][name][0]), str(content["files"][name][1])) for name in FILES}
            return cls(int(content["step"]), int(content["attempt"]), int(content["token"]), files)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{COMMIT} is not a commit ({error!r})") from error


def take_snapshot(state: TrainingState, adapter: Adapter, optimizer: torch.optim.Optimizer) -> Snapshot:
    """Copy everything to the CPU. Of sharded parameters the whole: then all ranks have to call."""
    started = time.monotonic()
    parameters = adapter.named_parameters()
    weights = adapter.tensors()
    moments = {
        f"{moment}:{name}": whole(optimizer.state[parameter][moment]).to("cpu", copy=True)
        if parameter in optimizer.state
        else torch.zeros(parameter.shape, dtype=parameter.dtype)
        for name, parameter in parameters.items()
        for moment in _MOMENTS
    }
    return Snapshot(copy.deepcopy(state), weights, moments, time.monotonic() - started)


def write(folder: Path, snapshot: Snapshot, *, attempt: int, token: Callable[[], int]) -> Commit:
    """Write ``folder/step-N``, complete and on the disk when this returns.

    ``token()`` is asked just before the commit, and may raise where the run's lock is lost.
    Errors: :class:`StorageError`; nothing that was there before is harmed.
    """
    state = snapshot.state
    target = folder / f"step-{state.step}"
    temporary = folder / f".step-{state.step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(snapshot.adapter, temporary / FILES[0])
        save_file(snapshot.moments, temporary / FILES[1])
        content = {"version": VERSION, **asdict(state)}
        (temporary / FILES[2]).write_text(json.dumps(content, indent=1) + "\n")
        for name in FILES:
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
        facts = {name: digests(temporary / name)[:2] for name in FILES}
        commit = Commit(state.step, attempt, token(), facts)
        write_atomically(temporary / COMMIT, commit.to_json())
        install(temporary, target)
    except (OSError, SafetensorError, StorageError) as error:
        raise StorageError(
            f"cannot write the checkpoint {target}: {error}",
            hint="is the disk full? the run goes on from the last one",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return commit


def install(temporary: Path, target: Path) -> None:
    """Let a folder that is complete, and on the disk, appear under its name."""
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    sync(target.parent)


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


def read_state(path: Path) -> TrainingState:
    content = json.loads((path / FILES[2]).read_text())
    if content.pop("version") != VERSION:
        raise ConfigError(f"{path}: was written by another version of packtrain")
    return TrainingState(**content)


def read(path: Path) -> Snapshot:
    """All of a checkpoint, on the CPU."""
    return Snapshot(read_state(path), load_file(path / FILES[0]), load_file(path / FILES[1]))


def restore(
    snapshot: Snapshot, adapter: Adapter, optimizer: torch.optim.Optimizer, fingerprint: dict[str, Any]
) -> None:
    """Put adapter and optimizer back; with sharded parameters each rank keeps its part.

    Errors: :class:`ConfigError` naming what is another.
    """
    state = snapshot.state
    for what, value in fingerprint.items():
        if state.fingerprint.get(what) != value:
            raise ConfigError(
                f"the checkpoint step-{state.step} was made with another {what} "
                f"({state.fingerprint.get(what)} then, {value} now)",
                hint="--new starts another run under this name",
            )
    adapter.load(snapshot.adapter)
    for name, parameter in adapter.named_parameters().items():
        kept = {moment: torch.zeros_like(parameter, requires_grad=False) for moment in _MOMENTS}
        for moment, tensor in kept.items():
            put(tensor, snapshot.moments[f"{moment}:{name}"])
        step = torch.tensor(float(state.step), device=parameter.device)
        optimizer.state[parameter] = {"step": step, **kept}
