"""A trainer as ``packtrain train`` makes it, for the scripts that look at one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from packtrain.config import RunConfig
from packtrain.data.batches import BatchPlan
from packtrain.data.prepare import prepare
from packtrain.model.parallel import World
from packtrain.model.weights import load_tokenizer, resolve_base
from packtrain.run.settings import pick_micro_batch, use_activation_checkpointing
from packtrain.run.spread import spread_model
from packtrain.train.loop import Trainer
from packtrain.train.optimizer import make_optimizer


def make_trainer(
    base: Path, rows: Path, max_length: int, *, full: bool = False, overrides: Sequence[str] = ()
) -> Trainer:
    """On the CPU, in fp32; one optimizer step trains all ``rows``. ``overrides``: KEY=VALUE of a run file."""
    sections: dict[str, Any] = {
        "name": "benchmark",
        "model": {"source": str(base)},
        "data": {"train": str(rows), "validation": 0.0, "max_length": max_length},
        "adapter": {"kind": "none"} if full else {"rank": 16, "alpha": 32.0},
        "train": {"batch_tokens": 1_000_000, "schedule": "constant", "warmup": 0, "max_steps": 1000},
    }
    for key, _, value in (each.partition("=") for each in overrides):
        section, _, name = key.partition(".")
        sections[section][name] = yaml.safe_load(value)
    config = RunConfig.model_validate(sections)
    device = torch.device("cpu")
    world = World(device=device)
    files = resolve_base(config.model)
    tokenizer = load_tokenizer(files, config.model)
    data = prepare(config.data, tokenizer, chat_template=None, seed=config.train.seed, keep=False)
    _, trainable, loss = spread_model(
        files,
        config,
        world,
        "data",
        dtype=torch.float32,
        activation_checkpointing=use_activation_checkpointing(config.train, device),
        rows=data.train,
    )
    bin_tokens = np.array([data.train.lengths[rows].sum() for rows in data.train_bins])
    return Trainer(
        loss=loss,
        adapter=trainable,
        optimizer=make_optimizer(trainable.parameters(), config.train),
        rows=data.train,
        bins=data.train_bins,
        plan=BatchPlan(bin_tokens, config.train.batch_tokens, epochs=10_000, seed=42),
        config=config.train,
        micro_batch=pick_micro_batch(config.train, config.data.max_length, device),
        device=device,
        world=world,
    )
