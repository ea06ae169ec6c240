"""A checkpoint of sharded parameters is whole, and goes on on any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_store
from packed import adapt, random_rows
from ranks import results, run_ranks
from safetensors.torch import load_file
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM

from packtrain.config import TrainConfig
from packtrain.data.batches import collate
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import joined, mesh_of, shard
from packtrain.train.checkpoint import TrainingState, read, restore, take_snapshot
from packtrain.train.optimizer import make_optimizer


def go_on(base: str, load: str | None, save: str) -> dict[str, Any]:
    """One step from ``load``, and a checkpoint in ``save``; whether ``load`` came back as it was."""
    torch.set_num_threads(1)
    with joined() as world:
        model = AutoModelForCausalLM.from_pretrained(base)
        adapter = adapt(model, dropout=0.0)
        loss = CausalLoss.of(model)
        if world.size > 1:
            shard(loss, model.model.layers, mesh_of(world))
        optimizer = make_optimizer(adapter.parameters(), TrainConfig(learning_rate=1e-2))
        state, same = TrainingState(), True
        if load is not None:
            restore(read(Path(load)), adapter, optimizer, {})
            state.step = int(Path(load).name.partition("-")[2])
            snapshot = take_snapshot(state, adapter, optimizer)
            for tensors, name in ((snapshot.adapter, "adapter"), (snapshot.moments, "optimizer")):
                there = load_file(Path(load) / f"{name}.safetensors")
                same = same and there.keys() == tensors.keys()
                same = same and all(torch.equal(there[key], tensors[key]) for key in there)
        adapter.randomness.step = state.step + 1
        batch = collate(random_rows([30, 20]), [torch.tensor([0]).numpy(), torch.tensor([1]).numpy()], [0, 1])
        adapter.randomness.bins = batch.bins
        # Every rank has the whole batch: the sum over ranks is as many times the gradient of one.
        (loss(batch) / world.size).backward()
        optimizer.step()
        state.step += 1
        taken = take_snapshot(state, adapter, optimizer)
        if world.is_main:
            assert make_store(Path(save)).save(taken, wait=True)
        world.barrier()
        return {"same": same, "sum": float(sum(tensor.abs().sum() for tensor in taken.adapter.values()))}


@pytest.mark.slow
def test_from_two_processes_to_one_and_back(tmp_path: Path) -> None:
    base = str(make_tiny_base(tmp_path / "base"))
    folder = str(tmp_path / "checkpoints")
    [first, other] = results(run_ranks(go_on, 2, base, None, folder))
    assert first["sum"] == other["sum"], "every rank gathers the same"
    [alone] = results(run_ranks(go_on, 1, base, f"{folder}/step-1", folder))
    assert alone["same"]
    back = results(run_ranks(go_on, 2, base, f"{folder}/step-2", folder))
    assert all(rank["same"] for rank in back)
    undisturbed = None
    for step in (None, 1, 2):
        load = f"{tmp_path}/one/step-{step}" if step else None
        [undisturbed] = results(run_ranks(go_on, 1, base, load, str(tmp_path / "one")))
    assert undisturbed is not None
    assert back[0]["sum"] == pytest.approx(undisturbed["sum"], rel=1e-5)
