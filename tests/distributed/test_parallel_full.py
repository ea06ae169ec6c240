"""Full fine-tuning in several processes: the gradients, and the steps, of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import random_rows
from ranks import results, run_ranks
from tiny import make_tiny_base

from packtrain.config import RunConfig, TrainConfig
from packtrain.data.batches import collate
from packtrain.model import parallel
from packtrain.model.parallel import Mode, joined, local
from packtrain.model.weights import BaseFiles
from packtrain.run.spread import spread_model
from packtrain.train.optimizer import make_optimizer

BINS = 5


def one_step_of(base: str, mode: Mode, dtype: str = "float32") -> dict[str, Any]:
    """Gradients of one batch of five bins, spread over the ranks, and the weights after a step of AdamW."""
    torch.set_num_threads(1)
    parallel.MESSAGE = 20_000  # several messages
    config = RunConfig.model_validate(
        {"name": "a", "model": {"source": base}, "data": {"train": "x"}, "adapter": {"kind": "none"}}
    )
    rows = random_rows([30, 20, 25, 10, 40])
    bins = [torch.tensor([row]).numpy() for row in range(BINS)]
    with joined() as world:
        files = BaseFiles(Path(base), base, None, base)
        model, trainable, loss = spread_model(
            files,
            config,
            world,
            mode,
            dtype=getattr(torch, dtype),
            activation_checkpointing=True,
            rows=rows,
        )
        optimizer = make_optimizer(trainable.parameters(), TrainConfig(learning_rate=1e-3, weight_decay=0.1))
        total = torch.zeros(())
        for turn in range(-(-BINS // world.size)):
            chosen = turn * world.size + world.rank
            if chosen >= BINS and mode == "data":
                continue
            value = loss(collate(rows, bins, [min(chosen, BINS - 1)])) * (chosen < BINS)
            value.backward()
            total += value.detach()
        if mode == "data":
            world.sum_gradients(trainable.parameters())
        norm = torch.nn.utils.clip_grad_norm_(trainable.parameters(), 1e9)
        grads = {}
        for name, parameter in trainable.named_parameters().items():
            assert parameter.grad is not None, name
            assert parameter.dtype == parameter.grad.dtype == torch.float32
            grad: Any = parameter.grad
            grads[name] = getattr(grad, "full_tensor", lambda grad=grad: grad)().tolist()
        optimizer.step()

        def held() -> int:
            return sum(local(parameter.detach()).numel() for parameter in trainable.parameters())

        with parallel.resharded(loss), torch.no_grad():
            loss(collate(rows, bins, [0]))
            evaluating = held()
        kept = held()
        head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        return {
            "loss": float(world.sum(total)),
            "norm": float(getattr(norm, "full_tensor", lambda: norm)()),
            "grads": grads,
            "weights": {name: tensor.tolist() for name, tensor in trainable.tensors().items()},
            "nothing": trainable.tensors(keep=False),
            "kept": kept,
            "evaluating": evaluating,
            "tied": head is embeddings,
        }


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"hidden_size": 32, "intermediate_size": 64}
    return make_tiny_base(tmp_path_factory.mktemp("base"), tied=request.param, shape=small)


@pytest.fixture(scope="module")
def alone(base: Path) -> dict[str, Any]:
    [result] = results(run_ranks(one_step_of, 1, str(base), "data"))
    return dict(result)


@pytest.mark.parametrize(
    ("size", "mode", "per_node"),
    [
        (2, "data", None),
        (2, "fsdp", None),
        pytest.param(4, "data", None, marks=pytest.mark.slow),
        pytest.param(4, "fsdp", None, marks=pytest.mark.slow),
        pytest.param(4, "fsdp", 2, marks=pytest.mark.slow, id="hsdp"),
    ],
)
def test_ranks_take_the_step_of_one(
    base: Path, alone: dict[str, Any], size: int, mode: str, per_node: int | None
) -> None:
    found = results(run_ranks(one_step_of, size, str(base), mode, per_node=per_node))
    for result in found:
        assert result["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert result["norm"] == pytest.approx(alone["norm"], rel=1e-5)
        assert result["tied"] == alone["tied"]
        assert result["nothing"] == {}
        assert result["grads"].keys() == alone["grads"].keys()
        for name, grad in result["grads"].items():
            ours, reference = torch.tensor(grad), torch.tensor(alone["grads"][name])
            assert float((ours - reference).norm()) <= 1e-5 * float(reference.norm()), name
        # The first step of AdamW is about the sign of a gradient: those near nothing go either way.
        moved = [
            torch.tensor(result["weights"][name]) - torch.tensor(weight)
            for name, weight in alone["weights"].items()
        ]
        assert float(torch.cat([part.flatten() for part in moved]).abs().median()) <= 1e-6
        assert result["weights"] == found[0]["weights"], "every rank gathers the same"
    if mode == "fsdp":
        # FSDP2 keeps the root's parameters whole after a forward alone: no state to save.
        assert all(result["evaluating"] > result["kept"] for result in found)
        assert sum(result["kept"] for result in found) == alone["kept"] * size // (per_node or size)
    else:
        assert all(result["kept"] == alone["kept"] for result in found)


def lose_a_peer(base: str) -> bool:
    """Rank 1 is killed; rank 0 hears of it in the middle of a forward, from FSDP2's own collective."""
    with joined() as world, world.computing():
        full = {"name": "a", "model": {"source": base}, "data": {"train": "x"}, "adapter": {"kind": "none"}}
        rows = random_rows([30, 20])
        _, _, loss = spread_model(
            BaseFiles(Path(base), base, None, base),
            RunConfig.model_validate(full),
            world,
            "fsdp",
            dtype=torch.float32,
            activation_checkpointing=False,
            rows=rows,
        )
        world.barrier()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        loss(collate(rows, [torch.tensor([0]).numpy()], [0]))
        return True


def test_a_peer_lost_in_a_forward_is_named(base: Path) -> None:
    main, lost = run_ranks(lose_a_peer, 2, str(base))
    assert lost.code == -signal.SIGKILL
    assert main.code == 69, main.stderr
    assert "UnavailableError: rank 0 lost rank 1 while computing" in main.stderr


def mistake() -> bool:
    with joined() as world, world.computing():
        raise RuntimeError("a shape does not fit")


def test_another_error_stays_what_it_is() -> None:
    for rank in run_ranks(mistake, 2):
        assert "RuntimeError: a shape does not fit" in rank.stderr and "lost" not in rank.stderr


def test_masters_in_fp32_are_computed_in_bfloat16(base: Path, alone: dict[str, Any]) -> None:
    """By autocast in one process and by FSDP2's own casts in two: both near what fp32 gives."""
    [one] = results(run_ranks(one_step_of, 1, str(base), "data", "bfloat16"))
    for result in [one, *results(run_ranks(one_step_of, 2, str(base), "fsdp", "bfloat16"))]:
        assert result["loss"] != alone["loss"]
        assert result["loss"] == pytest.approx(alone["loss"], rel=1e-2)
        assert result["norm"] == pytest.approx(alone["norm"], rel=5e-2)
        for name, grad in result["grads"].items():
            ours, reference = torch.tensor(grad), torch.tensor(alone["grads"][name])
            assert float((ours - reference).norm()) <= 0.1 * float(reference.norm()), name
