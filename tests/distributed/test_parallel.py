"""Several processes give the gradients of one, however the model is spread."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import adapt, random_rows
from ranks import results, run_ranks
from tiny import make_tiny_base
from torch.distributed import distributed_c10d
from transformers import AutoModelForCausalLM

from packtrain.data.batches import collate
from packtrain.errors import DataError, UsageError
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import choose_mode, joined, mesh_of, peer_timeout, shard

BINS = 5


def gradients_of(base: str, mode: str, dtype: str = "float32") -> dict[str, Any]:
    """Summed gradients, norm and gathered weights of one batch of five bins, spread over the ranks."""
    torch.set_num_threads(1)
    with joined() as world:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
        adapter = adapt(model, dropout=0.2)
        loss = CausalLoss.of(model)
        before = adapter.tensors()
        if mode == "fsdp":
            shard(loss, model.model.layers, mesh_of(world))
        rows = random_rows([30, 20, 25, 10, 40])
        bins = [torch.tensor([row]).numpy() for row in range(BINS)]
        adapter.train(True)
        adapter.randomness.step = 1
        total = torch.zeros(())
        for turn in range(-(-BINS // world.size)):
            chosen = turn * world.size + world.rank
            if chosen >= BINS and mode == "data":
                continue
            batch = collate(rows, bins, [min(chosen, BINS - 1)])
            adapter.randomness.bins = batch.bins
            value = loss(batch) * (chosen < BINS)
            value.backward()
            total += value.detach()
        if mode == "data":
            world.sum_gradients(adapter.parameters())
        norm = torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1e9)
        grads = {}
        for name, parameter in adapter.named_parameters().items():
            grad = parameter.grad
            assert grad is not None
            grads[name] = getattr(grad, "full_tensor", lambda grad=grad: grad)().tolist()
        after = adapter.tensors()
        adapter.load({name: tensor + 1 for name, tensor in after.items()})
        moved = adapter.tensors()
        return {
            "loss": float(world.sum(total)),
            "norm": float(getattr(norm, "full_tensor", lambda: norm)()),
            "grads": grads,
            "kept": all(torch.equal(tensor, before[name]) for name, tensor in after.items()),
            "loaded": all(torch.equal(tensor, after[name] + 1) for name, tensor in moved.items()),
        }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(base: Path) -> dict[str, Any]:
    [result] = results(run_ranks(gradients_of, 1, str(base), "data"))
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
def test_ranks_give_the_gradients_of_one(
    base: Path, alone: dict[str, Any], size: int, mode: str, per_node: int | None
) -> None:
    for result in results(run_ranks(gradients_of, size, str(base), mode, per_node=per_node)):
        assert result["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert result["norm"] == pytest.approx(alone["norm"], rel=1e-5)
        assert result["kept"] and result["loaded"]
        assert result["grads"].keys() == alone["grads"].keys()
        for name, grad in result["grads"].items():
            ours, reference = torch.tensor(grad), torch.tensor(alone["grads"][name])
            assert float((ours - reference).norm()) <= 1e-5 * float(reference.norm())


def test_a_bf16_base_and_its_fp32_adapter_share_a_group(base: Path) -> None:
    [one] = results(run_ranks(gradients_of, 1, str(base), "data", "bfloat16"))
    for result in results(run_ranks(gradients_of, 2, str(base), "fsdp", "bfloat16")):
        assert result["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert result["norm"] == pytest.approx(one["norm"], rel=2e-2)


def conversation() -> dict[str, Any]:
    with joined() as world:
        first = world.main_first(lambda: [world.rank])
        return {
            "any": [world.any(False), world.any(world.rank == 1)],
            "heard": world.broadcast({"from": world.rank}),
            "all": world.gather(world.rank * 10),
            "first": first,
            "main": world.is_main,
        }


def test_ranks_agree_and_hear_each_other() -> None:
    for rank, result in enumerate(results(run_ranks(conversation, 2))):
        assert result == {
            "any": [False, True],
            "heard": {"from": 0},
            "all": [0, 10],
            "first": [rank],
            "main": rank == 0,
        }


def lose_a_peer() -> bool:
    with joined() as world:
        world.barrier()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return world.any(False)


def test_a_lost_peer_is_named_and_nobody_hangs() -> None:
    main, lost = run_ranks(lose_a_peer, 2, timeout=60)
    assert lost.code == -signal.SIGKILL
    assert main.code == 69
    assert "UnavailableError: rank 0 lost rank 1 while agreeing on a stop" in main.stderr


def slow_first(seconds: float, fails: bool) -> list[int]:
    with joined() as world:
        world.barrier()
        distributed_c10d._set_pg_timeout(timedelta(seconds=5), world.control)

        def work() -> list[int]:
            if world.rank == 0:
                time.sleep(seconds)
                if fails:
                    raise DataError("row 7 is empty")
            return [world.rank]

        done = world.main_first(work)
        world.barrier()
        return done


@pytest.mark.slow
def test_the_first_may_take_longer_than_a_peer_is_waited_for() -> None:
    assert results(run_ranks(slow_first, 2, 8.0, False)) == [[0], [1]]


def test_a_first_that_fails_is_waited_for_by_nobody() -> None:
    first, other = run_ranks(slow_first, 2, 0.0, True)
    assert (first.code, other.code) == (65, 69)
    assert "rank 1 lost a rank that prepares its node" in other.stderr


def test_how_long_a_peer_is_waited_for() -> None:
    assert (peer_timeout(None), peer_timeout("1.5")) == (600.0, 1.5)
    for text in ("soon", "0", "-1", "nan", "inf"):
        with pytest.raises(UsageError, match="PACKTRAIN_TIMEOUT"):
            peer_timeout(text)


def test_one_process_needs_no_group() -> None:
    with joined() as world:
        assert (world.size, world.is_main) == (1, True)
        assert world.any(True) and not world.any(False)
        assert world.gather(3) == [3]
        assert choose_mode(world, 10**12, "fsdp") == "data"
