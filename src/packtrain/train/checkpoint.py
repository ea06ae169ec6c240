"""Checkpoints: the state after a completed optimizer step, complete or not there.

``step-N/`` holds the adapter and the optimizer as safetensors, and ``state.json``. It is written
under a temporary name, and ``commit.json``, with the digests of the others, is written last; a
folder without a matching one does not count. Old ones go only after a new one is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from packtrain.errors import ConfigError, StorageError
from packtrain.model.adapter import Adapter
from packtrain.rundir import sync_folder, write_atomically
from packtrain.storage.checksums import digests

VERSION = 1
FILES = ("adapter.safetensors", "optimizer.safetensors", "state.json")
COMMIT = "commit.json"
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


def save(
    folder: Path, state: TrainingState, adapter: Adapter, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Write ``folder/step-N``, complete, and drop all but the newest ``keep``."""
    target = folder / f"step-{state.step}"
    temporary = folder / f".step-{state.step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(adapter.tensors(), temporary / FILES[0])
        save_file(_moments(adapter, optimizer), temporary / FILES[1])
        content = {"version": VERSION, **asdict(state)}
        (temporary / FILES[2]).write_text(json.dumps(content, indent=1) + "\n")
        for name in FILES:
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
        commit = {name: digests(temporary / name)[:2] for name in FILES}
        write_atomically(temporary / COMMIT, json.dumps(commit).encode())
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(
            f"cannot write the checkpoint {target}: {error}",
            hint="is the disk full? the run goes on from the last one",
        ) from error
    for old in _by_step(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint; a damaged one is passed over with a warning."""
    for path in _by_step(folder):
        problem = _damage(path)
        if problem is None:
            return path
        warn(f"checkpoint {path.name} is passed over: {problem}")
    return None


def read_state(path: Path) -> TrainingState:
    content = json.loads((path / FILES[2]).read_text())
    if content.pop("version") != VERSION:
        raise ConfigError(f"{path}: was written by another version of packtrain")
    return TrainingState(**content)


def restore(
    path: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, fingerprint: dict[str, Any]
) -> None:
    """Put adapter and optimizer back. Errors: :class:`ConfigError` naming what is another."""
    state = read_state(path)
    for what, value in fingerprint.items():
        if state.fingerprint.get(what) != value:
            raise ConfigError(
                f"{path}: was made with another {what} ({state.fingerprint.get(what)} then, {value} now)",
                hint="--new starts another run under this name",
            )
    adapter.load(load_file(path / FILES[0]))
    moments = load_file(path / FILES[1])
    for name, parameter in adapter.named_parameters().items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state.step), device=parameter.device),
            **{moment: moments[f"{moment}:{name}"].to(parameter.device) for moment in _MOMENTS},
        }


def _moments(adapter: Adapter, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{moment}:{name}": optimizer.state[parameter][moment].to("cpu", copy=True)
        if parameter in optimizer.state
        else torch.zeros_like(parameter, device="cpu")
        for name, parameter in adapter.named_parameters().items()
        for moment in _MOMENTS
    }


def _by_step(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _damage(path: Path) -> str | None:
    try:
        commit = json.loads((path / COMMIT).read_text())
        for name in FILES:
            if list(digests(path / name)[:2]) != commit[name]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError) as error:
        return f"it cannot be read ({error})"
    return None
