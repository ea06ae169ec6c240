"""What ``micro_batch: auto`` becomes on a GPU: the usual size, or what the planner finds room for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from packtrain.config import RunConfig
from packtrain.plan.auto import micro_batch
from packtrain.plan.machines import GIB
from packtrain.plan.memory import trace
from packtrain.plan.setup import setup_of

if TYPE_CHECKING:
    from packtrain.data.prepare import PreparedData
    from packtrain.model.parallel import World
    from packtrain.run.session import Session


@dataclass(frozen=True)
class Room:
    """GPUs that a run has."""

    gpus: int
    gpus_per_node: int
    memory: int
    """Bytes of each."""


@dataclass(frozen=True)
class Choice:
    micro_batch: int
    needed: int
    """Bytes of each GPU, as planned."""


def choose(config: RunConfig, base: Path, room: Room, documents: int) -> Choice:
    """As ``packtrain plan`` answers it. ``base``: the folder with config.json; ``documents``: rows in a
    sequence. Errors: :class:`ConfigError` for a model that cannot be traced."""
    from dataclasses import replace

    setup = setup_of(
        config,
        json.loads((base / "config.json").read_text(encoding="utf-8")),
        device_memory=room.memory,
        gpus=room.gpus,
        gpus_per_node=room.gpus_per_node,
        documents=documents,
    )
    size = micro_batch(setup, config.train.batch_tokens, room.memory)
    return Choice(size, trace(replace(setup, micro_batch=size)).reserved_bytes)


def planned(
    session: Session, config: RunConfig, base: Path, data: PreparedData, world: World, usual: int
) -> int:
    """On every rank, what the main one's planner says; ``usual`` where it cannot trace the model."""
    if world.device.type != "cuda" or config.train.micro_batch != "auto":
        return usual
    found = usual
    if world.is_main:
        session.stage("planning the micro-batch")
        memory = torch.cuda.mem_get_info(world.device)[1]
        documents = max(1, round(sum(map(len, data.train_bins)) / len(data.train_bins)))
        try:
            choice = choose(config, base, Room(world.size, world.local_size, memory), documents)
        except Exception as error:  # noqa: BLE001  (an estimate that fails is no reason to end a run)
            session.warn(f"train.micro_batch: auto is {usual}, unplanned: {type(error).__name__}: {error}")
        else:
            found = choice.micro_batch
            session.progress.stage(
                f"micro-batches of {found}: {choice.needed / GIB:.1f} of {memory / GIB:.1f} GiB planned"
            )
    return world.broadcast(found)
