"""What is trained, on this rank's device: the base with an adapter or all of the base, whole or a shard."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from packtrain.config import RunConfig
from packtrain.data.batches import MicroBatch, collate
from packtrain.data.tokenized import TokenizedRows
from packtrain.model.adapter import add_adapter, checkpoint_activations
from packtrain.model.freed import keep_freed_memory
from packtrain.model.full import MASTER, train_all
from packtrain.model.loss import CausalLoss, check_against_model
from packtrain.model.one_copy import one_copy
from packtrain.model.parallel import Mode, World, mesh_of, shard
from packtrain.model.trainable import Trainable
from packtrain.model.weights import BaseFiles, load_model

#: Tokens of a sample's document before its first supervised one, and from that one on.
SAMPLE_BEFORE, SAMPLE_AFTER = 4, 4

Spread = tuple[PreTrainedModel, Trainable, CausalLoss]


def spread_model(
    base: BaseFiles,
    config: RunConfig,
    world: World,
    mode: Mode,
    *,
    dtype: torch.dtype,
    activation_checkpointing: bool,
    rows: TokenizedRows,
) -> Spread:
    """Load the base and make trainable what is to be; our loss is checked on a little of ``rows``.

    ``dtype``: of a frozen base, and what a base that is trained itself is computed in. "data": every
    rank has all of it. "fsdp": rank 0 alone reads the weights, into host memory, and the others get
    their shards from it.
    """
    sharded = mode == "fsdp"
    compute = dtype if config.full and dtype != MASTER else None
    if config.full:
        dtype = MASTER
    if not sharded:
        # A base that is trained is changed, so that each rank has its own anyway.
        packed = config.adapter.kind == "qlora"
        with nullcontext(base) if config.full or packed else one_copy(base, dtype, world) as files:
            model = load_model(files, config.model, device=world.device, dtype=dtype, packed=packed)
    elif world.is_main:
        model = load_model(base, config.model, device=torch.device("cpu"), dtype=dtype)
    else:
        settings = AutoConfig.from_pretrained(
            base.folder, trust_remote_code=config.model.trust_remote_code, local_files_only=True
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                settings, dtype=dtype, trust_remote_code=config.model.trust_remote_code
            )
    trainable = (
        train_all(model, config.train.seed)
        if config.full
        else add_adapter(model, config.adapter, config.train.seed)
    )
    if activation_checkpointing:
        checkpoint_activations(model)
    if world.device.type == "cpu":
        keep_freed_memory()
    loss = CausalLoss.of(model)
    if not sharded or world.is_main:
        check_against_model(loss, model, _sample(rows).to(loss.head.weight.device))
    if sharded:
        _shard(loss, model, world, compute)
    else:
        loss.compute = compute
    return model, trainable, loss


def _sample(rows: TokenizedRows) -> MicroBatch:
    """Two short documents with something to predict, so that a start does not wait for long ones.

    Of the two shortest rows: where the first answer begins, with a little of what stands before it.
    """
    pieces = []
    for row in np.argsort(rows.lengths, kind="stable")[:2]:
        tokens, supervised = rows.row(int(row))
        first = 1 + int(np.argmax(supervised[1:]))
        piece = slice(max(0, first - SAMPLE_BEFORE), first + SAMPLE_AFTER)
        pieces.append((tokens[piece], supervised[piece]))
    made = TokenizedRows.of([each for each, _ in pieces], [mask for _, mask in pieces], [""] * len(pieces))
    return collate(made, [np.arange(len(pieces))], [0])


def _shard(loss: CausalLoss, model: PreTrainedModel, world: World, compute: torch.dtype | None) -> None:
    """FSDP2 over ``loss``; weights and buffers go from rank 0 to where their shards are."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    weights: dict[str, Any] = loss.state_dict() if world.is_main else {}
    # Buffers such as the rotary frequencies are in no state dict.
    own = {name: buffer.cpu() for name, buffer in loss.named_buffers()} if world.is_main else {}
    buffers = world.broadcast(own)
    block_types = set(model._no_split_modules or [])
    blocks = [module for module in model.modules() if type(module).__name__ in block_types]
    shard(loss, blocks, mesh_of(world), compute)
    if not world.is_main:
        loss.to_empty(device=world.device)
    for name in buffers:
        parent, _, leaf = name.rpartition(".")
        setattr(loss.get_submodule(parent), leaf, buffers[name].to(world.device))
    set_model_state_dict(
        loss, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    )
