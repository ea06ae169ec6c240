"""The state after a completed optimizer step: copied out of a model that trains, and put back into one.

A copy is whole, made by the main rank, where what is trained is small (an adapter). Of a base that is
trained in shards each rank of the first node copies its own part, without a word to the others; the
parts of one tensor, put one after another, are the tensor. So a state goes back on any number of ranks.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from packtrain.errors import ConfigError
from packtrain.model.parallel import World, local, receive, whole
from packtrain.model.trainable import Trainable

VERSION = 1
WEIGHTS, MOMENTS, STATE = "adapter", "optimizer", "state.json"
#: Of a checkpoint in one part.
FILES = (f"{WEIGHTS}.safetensors", f"{MOMENTS}.safetensors", STATE)
_ADAM = ("exp_avg", "exp_avg_sq")
_ALONE = World()


@dataclass
class TrainingState:
    """What training has come to; all that it needs besides weights and optimizer to go on."""

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
    stream: dict[str, Any] = field(default_factory=dict)
    """With streamed data: how far it was read (:class:`packtrain.data.stream_mark.Mark`)."""

    @property
    def train_loss(self) -> float:
        """Mean over all supervised tokens so far."""
        return self.loss_sum / max(1, self.supervised_tokens)

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n"


@dataclass(frozen=True)
class Part:
    """Which part of a checkpoint a rank writes."""

    index: int | None = 0
    """From 0; None: this rank writes nothing."""
    count: int = 1

    def file(self, kind: str) -> str:
        """Such as ``adapter.safetensors``, or ``adapter-1-of-4.safetensors`` for the first of four."""
        assert self.index is not None
        return (
            f"{kind}.safetensors"
            if self.count == 1
            else f"{kind}-{self.index + 1}-of-{self.count}.safetensors"
        )


def part_of(world: World, *, in_parts: bool) -> Part:
    """The part of this rank. ``in_parts``: what is trained is sharded, and too large to be gathered.

    Every node has all shards, but where a node is a single rank: then the main one gathers them.
    """
    if not in_parts or world.local_size == 1:
        return Part(0 if world.is_main else None)
    return Part(world.rank if world.rank < world.local_size else None, world.local_size)


def files_of(count: int) -> frozenset[str]:
    """The names of all files of a checkpoint in ``count`` parts, but its commit."""
    parts = [Part(index, count) for index in range(count)]
    return frozenset({part.file(kind) for part in parts for kind in (WEIGHTS, MOMENTS)} | {STATE})


@dataclass(frozen=True)
class Snapshot:
    """A state in memory: copies on the CPU, which training does not touch any more; or one in files."""

    state: TrainingState
    adapter: Mapping[str, Tensor]
    """The trained weights by name."""
    moments: Mapping[str, Tensor]
    """``exp_avg:NAME`` and ``exp_avg_sq:NAME`` of AdamW."""
    seconds: float = 0.0
    """That taking it held training up."""
    part: Part = Part()
    """Of how many parts this is which one."""


def take_snapshot(
    state: TrainingState, trainable: Trainable, optimizer: torch.optim.Optimizer, part: Part = Part()
) -> Snapshot:
    """Copy this rank's part to the CPU; where sharded tensors are gathered all ranks have to call."""
    started = time.monotonic()
    weights, moments = {}, {}

    def copied(tensor: Tensor) -> Tensor | None:
        mine = whole(tensor) if part.count == 1 else local(tensor)
        return None if part.index is None else mine.to("cpu", copy=True).contiguous()

    for name, parameter in trainable.named_parameters().items():
        kept = optimizer.state.get(parameter)
        if (weight := copied(parameter.detach())) is not None:
            weights[name] = weight
        for moment in _ADAM:
            source = torch.zeros_like(parameter, requires_grad=False) if kept is None else kept[moment]
            if (value := copied(source)) is not None:
                moments[f"{moment}:{name}"] = value
    return Snapshot(copy.deepcopy(state), weights, moments, time.monotonic() - started, part)


class Stored(Mapping[str, Tensor]):
    """The tensors of a checkpoint's files: each is read, and its parts are joined, when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts = [safe_open(path, framework="pt") for path in paths]
        self._names = list(self._parts[0].keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensors: list[Tensor] = [part.get_tensor(name) for part in self._parts]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_state(path: Path) -> TrainingState:
    content = json.loads((path / STATE).read_text())
    if content.pop("version") != VERSION:
        raise ConfigError(f"{path}: was written by another version of packtrain")
    return TrainingState(**content)


def read(path: Path) -> Snapshot:
    """The checkpoint in ``path``; its tensors stay in the files until they are asked for."""
    count = len(list(path.glob(f"{WEIGHTS}*.safetensors")))
    parts = [Part(index, count) for index in range(count)]
    weights, moments = (Stored([path / part.file(kind) for part in parts]) for kind in (WEIGHTS, MOMENTS))
    return Snapshot(read_state(path), weights, moments)


@torch.no_grad()
def restore(
    snapshot: Snapshot,
    trainable: Trainable,
    optimizer: torch.optim.Optimizer,
    fingerprint: dict[str, Any],
    world: World = _ALONE,
) -> None:
    """Put weights and optimizer back; the tensors are rank 0's alone, and each rank gets its part.

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
    for name, parameter in trainable.named_parameters().items():
        receive(parameter, snapshot.adapter[name] if world.is_main else None, world)
        kept = {moment: torch.zeros_like(parameter, requires_grad=False) for moment in _ADAM}
        for moment, tensor in kept.items():
            receive(tensor, snapshot.moments[f"{moment}:{name}"] if world.is_main else None, world)
        step = torch.tensor(float(state.step), device=parameter.device)
        optimizer.state[parameter] = {"step": step, **kept}
