"""A training that is set up: base, data, adapter, schedule and state, ready to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from packtrain.config import RunConfig
from packtrain.data.batches import BatchPlan, collate
from packtrain.data.chat import template_text
from packtrain.data.prepare import PreparedData, prepare
from packtrain.model.adapter import Adapter, add_adapter, checkpoint_activations
from packtrain.model.loss import CausalLoss, check_against_model
from packtrain.model.parallel import World
from packtrain.model.weights import BaseFiles, load_model, load_tokenizer, resolve_base
from packtrain.run.settings import (
    base_fingerprint,
    make_schedule,
    pick_device,
    pick_dtype,
    pick_micro_batch,
    use_activation_checkpointing,
)
from packtrain.train import checkpoint
from packtrain.train.checkpoint import TrainingState
from packtrain.train.loop import Schedule, Trainer
from packtrain.train.optimizer import make_optimizer

if TYPE_CHECKING:
    from packtrain.run.session import Session


@dataclass
class Fit:
    """Everything of a training that is running."""

    config: RunConfig
    """With revisions pinned."""
    base: BaseFiles
    tokenizer: PreTrainedTokenizerBase
    chat_template: str | None
    """The run file's, as text."""
    model: PreTrainedModel
    data: PreparedData
    trainer: Trainer
    state: TrainingState
    schedule: Schedule

    @property
    def adapter(self) -> Adapter:
        return self.trainer.adapter


def set_up(session: Session) -> Fit:
    """Load everything, cheapest first, and put back the newest checkpoint where there is one."""
    config = session.pinned_config()
    path = checkpoint.newest(session.run_dir.checkpoints, session.warn)
    state = checkpoint.read_state(path) if path else TrainingState()
    device = pick_device()
    dtype = pick_dtype(config.model, device)
    threads = state.settings.get("threads") or config.train.threads
    if threads:
        torch.set_num_threads(threads)
    # What `auto` becomes; an earlier attempt's choice holds, so that a resume repeats to the bit.
    settings = state.settings or {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "micro_batch": pick_micro_batch(config.train, config.data.max_length, device),
        "activation_checkpointing": use_activation_checkpointing(config.train, device),
    }
    state.settings = settings

    # The tokenizer comes first, the weights later: bad data is found before gigabytes are loaded.
    session.stage(f"getting the tokenizer of {config.model.source}")
    template = template_text(config.model.chat_template)
    base = resolve_base(config.model, weights=False, on_progress=session.stage)
    tokenizer = load_tokenizer(base, config.model)
    session.stage("reading the data")
    data = prepare(
        config.data,
        tokenizer,
        chat_template=template,
        seed=config.train.seed,
        on_progress=lambda rows: session.progress.tick(rows, None),
    )
    data_revision = data.report.sources["train"]["revision"] or config.data.revision
    config = session.write_config(config, base.revision or config.model.revision, data_revision, settings)

    session.stage(f"loading {config.model.source}")
    base = resolve_base(config.model, on_progress=session.stage)
    model = load_model(base, config.model, device=device, dtype=dtype)
    adapter = add_adapter(model, config.adapter, config.train.seed)
    if settings["activation_checkpointing"]:
        checkpoint_activations(model)
    loss = CausalLoss.of(model)
    shortest = np.argsort(data.train.lengths, kind="stable")[:2]
    check_against_model(loss, model, collate(data.train, [shortest], [0]).to(device))

    optimizer = make_optimizer(adapter.parameters(), config.train)
    fingerprint = {
        "training data": data.train.fingerprint,
        "validation data": data.validation.fingerprint if data.validation is not None else None,
        "base": base_fingerprint(base.folder),
        "adapter": {name: list(weight.shape) for name, weight in adapter.named_parameters().items()},
    }
    if path:
        checkpoint.restore(path, adapter, optimizer, fingerprint)
    state.fingerprint = fingerprint
    bins = data.train_bins
    plan = BatchPlan(
        bin_tokens=np.array([data.train.lengths[rows].sum() for rows in bins]),
        batch_tokens=config.train.batch_tokens,
        epochs=config.train.epochs,
        seed=config.train.seed,
        max_steps=config.train.max_steps,
    )
    return Fit(
        config=config,
        base=base,
        tokenizer=tokenizer,
        chat_template=template,
        model=model,
        data=data,
        trainer=Trainer(
            loss,
            adapter,
            optimizer,
            data.train,
            bins,
            plan,
            config.train,
            settings["micro_batch"],
            device,
            World(device=device),
        ),
        state=state,
        schedule=make_schedule(
            config.evaluate, config.checkpoint, plan.steps, has_validation=data.validation is not None
        ),
    )
