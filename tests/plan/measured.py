"""What a real optimizer step allocates on this CPU, by the allocator's own events."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from packtrain.config import AdapterConfig, TrainConfig
from packtrain.data.batches import BatchPlan
from packtrain.data.tokenized import TokenizedRows
from packtrain.model.adapter import add_adapter, checkpoint_activations
from packtrain.model.full import train_all
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import World
from packtrain.plan.build import document_lengths
from packtrain.plan.ledger import storages
from packtrain.plan.setup import Setup
from packtrain.train.loop import Trainer
from packtrain.train.optimizer import make_optimizer


@dataclass(frozen=True)
class Measured:
    resident: int
    peak: int


def rows_of(setup: Setup, vocabulary: int) -> TokenizedRows:
    """One bin for each sequence of the micro-batch, of ``setup.documents`` rows."""
    generator = np.random.default_rng(0)
    lengths = document_lengths(setup)
    tokens = [generator.integers(0, vocabulary, length).astype(np.int32) for length in lengths]
    masks = [np.arange(length) >= round(length * (1.0 - setup.supervised)) for length in lengths]
    return TokenizedRows.of(tokens, masks, [f"rows:{number}" for number in range(len(lengths))])


def step_of(model: PreTrainedModel, setup: Setup) -> Measured:
    """The second of two steps of packtrain's own trainer."""
    config = TrainConfig(batch_tokens=setup.tokens, micro_batch=setup.micro_batch, max_steps=2)
    trainable: Any
    if setup.adapter.kind == "none":
        trainable = train_all(model, 0)
    else:
        targets: Any = list(setup.adapter.targets) or "all-linear"
        adapter = AdapterConfig(
            rank=setup.adapter.rank,
            dropout=setup.adapter.dropout,
            targets=targets,
            layers=list(setup.adapter.layers) or "all",
        )
        trainable = add_adapter(model, adapter, 0)
    if setup.checkpointing:
        checkpoint_activations(model)
    rows = rows_of(setup, model.config.vocab_size)
    bins = np.arange(len(rows)).reshape(setup.micro_batch, -1)
    trainer = Trainer(
        CausalLoss.of(model),
        trainable,
        make_optimizer(trainable.parameters(), config),
        rows,
        list(bins),
        BatchPlan(np.full(setup.micro_batch, setup.length), setup.tokens, 2.0, 0, 2),
        config,
        setup.micro_batch,
        torch.device("cpu"),
        World(),
    )
    trainer.step(1, lambda: False)
    resident = _bytes(model, trainer.optimizer)
    gc.collect()  # what an earlier profile saw allocated would count against this one at its end
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer.step(2, lambda: False)
    return Measured(resident, resident + _most(seen))


def _bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    found = {storage.data_ptr(): storage.nbytes() for tensor in tensors for storage in storages(tensor)}
    return sum(found.values())


def _most(seen: Any) -> int:
    """The most that was allocated at once beyond what stood when the profile began."""
    pending, changes = list(seen.profiler.kineto_results.experimental_event_tree()), []
    while pending:
        event = pending.pop()
        pending += event.children
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.id, event.extra_fields.alloc_size))
    total = most = 0
    for _, _, change in sorted(changes):
        total += change
        most = max(most, total)
    return most
