"""A trainer on a tiny base, made anew for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed import random_rows
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM

from packtrain.config import AdapterConfig, TrainConfig
from packtrain.data.batches import BatchPlan
from packtrain.model.adapter import add_adapter
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import World
from packtrain.train.loop import Trainer
from packtrain.train.optimizer import make_optimizer

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make_trainer(tiny_folder: Path) -> MakeTrainer:
    """``make_trainer(micro_batch=…, dropout=…, **train settings)``: 12 rows in 6 bins, 3 steps an epoch."""

    def make(*, micro_batch: int = 2, dropout: float = 0.1, rank: int = 4, **settings: Any) -> Trainer:
        config = TrainConfig(batch_tokens=80, epochs=2.0, learning_rate=1e-2, seed=3, **settings)
        model = AutoModelForCausalLM.from_pretrained(tiny_folder)
        adapter = add_adapter(model, AdapterConfig(rank=rank, dropout=dropout), config.seed)
        rows = random_rows([20] * 12)
        bins = [np.array([row, row + 1]) for row in range(0, 12, 2)]
        plan = BatchPlan(
            np.array([40] * 6), config.batch_tokens, config.epochs, config.seed, config.max_steps
        )
        optimizer = make_optimizer(adapter.parameters(), config)
        device = torch.device("cpu")
        return Trainer(
            CausalLoss.of(model), adapter, optimizer, rows, bins, plan, config, micro_batch, device, World()
        )

    return make
