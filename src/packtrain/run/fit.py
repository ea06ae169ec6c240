"""A training that is set up: base, data, what is trained, schedule and state, ready to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from packtrain.config import RunConfig
from packtrain.data.batches import BatchPlan
from packtrain.data.chat import template_text
from packtrain.data.prepare import PreparedData, prepare
from packtrain.errors import BugError, ConfigError
from packtrain.model.fused import compile_layers
from packtrain.model.parallel import World, choose_mode
from packtrain.model.trainable import Trainable
from packtrain.model.weights import BaseFiles, load_tokenizer, resolve_base
from packtrain.run import micro_batch
from packtrain.run.settings import (
    base_fingerprint,
    check_extras,
    make_schedule,
    pick_device,
    pick_dtype,
    pick_micro_batch,
    standing_bytes,
    use_activation_checkpointing,
    use_compile,
)
from packtrain.run.spread import spread_model
from packtrain.run.streaming import Stream, begin_stream, size_hint
from packtrain.train import checkpoint
from packtrain.train.checkpoint import (
    CheckpointStore,
    Part,
    PartWriter,
    Snapshot,
    StoreExchange,
    TrainingState,
    part_of,
)
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
    store: CheckpointStore | None
    """Of the main rank."""
    part: Part
    """What this rank writes of a checkpoint."""
    part_writer: PartWriter | None
    """Of the other ranks that write a part."""
    stream: Stream | None = None
    """Where the data is streamed; ``data`` then holds the rows that training began with."""

    @property
    def adapter(self) -> Trainable:
        """The adapter, or all of the base."""
        return self.trainer.adapter


def set_up(session: Session) -> Fit:
    """Load everything, cheapest first, and put back the newest checkpoint where there is one.

    All ranks do the same; what only the main one can know (its folder's state) it tells the others.
    """
    check_extras(session.run_file.config)
    world = session.world or World(device=pick_device())
    store = session.make_store() if world.is_main else None
    path = store.newest() if store else None
    snapshot = checkpoint.read(path) if path else None
    stored = world.broadcast(snapshot.state if snapshot else None)
    config = world.broadcast(session.pinned_config() if world.is_main else session.run_file.config)
    state = stored or TrainingState()
    settings = _settings(config, world, state)

    # The tokenizer comes first, the weights later: bad data is found before gigabytes are loaded.
    template = template_text(config.model.chat_template)
    base, tokenizer = world.main_first(lambda: _load_tokenizer(session, config))
    stream: Stream | None = None
    if config.data.streaming:
        stream = begin_stream(session, config, tokenizer, template, world, state)
        data = stream.data
    else:
        data = world.main_first(lambda: _load_data(session, config, tokenizer, template))
    if not stored:
        settings["micro_batch"] = micro_batch.planned(
            session, config, base.folder, data, world, settings["micro_batch"]
        )
    config = session.write_config(config, base.revision or config.model.revision, data.revisions, settings)

    session.stage(f"loading {config.model.source}")
    base = world.main_first(lambda: resolve_base(config.model, on_progress=session.progress.stage))
    dtype = getattr(torch, settings["dtype"])
    # A base in 4 bits takes little room, and FSDP2 cannot shard what is packed.
    wanted = "data" if config.adapter.kind == "qlora" else config.train.parallel
    mode = choose_mode(world, standing_bytes(base.folder, full=config.full), wanted)
    model, adapter, loss = spread_model(
        base,
        config,
        world,
        mode,
        dtype=dtype,
        activation_checkpointing=settings["activation_checkpointing"],
        rows=data.train,
    )
    if settings["compile"] and not compile_layers(model):
        raise ConfigError(
            f"train.compile: the layers of {type(model).__name__} are not among those that are compiled",
            hint="leave train.compile out",
        )
    optimizer = make_optimizer(adapter.parameters(), config.train, list(adapter.learning_rates().values()))
    own_data = data.train.fingerprint if stream is None else stream.streamed.fingerprint
    fingerprint = world.broadcast(
        {
            "training data": own_data,
            "validation data": data.validation.fingerprint if data.validation is not None else None,
            "base": base_fingerprint(base.folder) if world.is_main else None,
            "adapter": adapter.shapes(),
        }
    )
    if own_data != fingerprint["training data"]:
        raise BugError(f"rank {world.rank} made other tokens of the same data than rank 0")
    if stored:
        session.progress.stage(f"putting back step {stored.step}", brief=True)
        checkpoint.restore(snapshot or Snapshot(stored, {}, {}), adapter, optimizer, fingerprint, world)
    state.fingerprint = fingerprint
    plan = stream.plan if stream is not None else _whole_plan(config, data)
    trainer = Trainer(
        loss=loss,
        adapter=adapter,
        optimizer=optimizer,
        rows=data.train,
        bins=data.epochs or data.train_bins,
        plan=plan,
        config=config.train,
        micro_batch=settings["micro_batch"],
        device=world.device,
        world=world,
        sharded=mode == "fsdp",
        stream=stream.plan if stream is not None else None,
    )
    schedule = make_schedule(
        config.evaluate, config.checkpoint, plan.steps, has_validation=data.validation is not None
    )
    part = part_of(world, in_parts=config.full and trainer.sharded)
    writer = PartWriter(session.run_dir.checkpoints, StoreExchange()) if part.index else None
    return Fit(
        config, base, tokenizer, template, model, data, trainer, state, schedule, store, part, writer, stream
    )


def _whole_plan(config: RunConfig, data: PreparedData) -> BatchPlan:
    return BatchPlan(
        bin_tokens=np.array([data.train.lengths[rows].sum() for rows in data.train_bins]),
        batch_tokens=config.train.batch_tokens,
        epochs=config.train.epochs,
        seed=config.train.seed,
        max_steps=config.train.max_steps,
        own=data.epochs,
    )


def _settings(config: RunConfig, world: World, state: TrainingState) -> dict[str, Any]:
    """What `auto` becomes; an earlier attempt's choice holds, so that a resume repeats to the bit."""
    device = world.device
    before = state.settings if state.settings.get("device") == device.type else {}
    threads = before.get("threads") or config.train.threads
    if threads:
        torch.set_num_threads(threads)
    state.settings = {
        "device": device.type,
        "dtype": str(pick_dtype(config.model, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "micro_batch": pick_micro_batch(config.train, config.data.max_length, device),
        "activation_checkpointing": use_activation_checkpointing(config.train, device),
        "compile": use_compile(config),
    } | before
    return state.settings


def _load_tokenizer(session: Session, config: RunConfig) -> tuple[BaseFiles, PreTrainedTokenizerBase]:
    session.stage(f"getting the tokenizer of {config.model.source}")
    base = resolve_base(config.model, weights=False, on_progress=session.progress.stage)
    return base, load_tokenizer(base, config.model)


def _load_data(
    session: Session, config: RunConfig, tokenizer: PreTrainedTokenizerBase, template: str | None
) -> PreparedData:
    if (hint := size_hint(config.data)) is not None:
        session.progress.stage(hint)
    session.stage("reading the data")
    return prepare(
        config.data,
        tokenizer,
        chat_template=template,
        seed=config.train.seed,
        on_progress=lambda rows: session.progress.tick(rows, None),
    )
