"""Loss and gradients against plain transformers and peft in fp64: ours are no worse than theirs in fp32.

Plain means document by document, through the modules' own forward and peft's layers, on the same
random A and B. The bound is three times the error that plain fp32 has itself.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from packed import Load, adapt, alike, gradients, packed, random_rows
from peft import LoraConfig, get_peft_model
from torch import Tensor

from packtrain.data.batches import MicroBatch
from packtrain.model.adapter import Adapter, checkpoint_activations
from packtrain.model.fused import modules_own_way, use_fused_layers
from packtrain.model.loss import CausalLoss

#: Kinds whose layers run by our kernels, and kinds whose layers run as they are.
FUSED = ["llama", "llama3", "qwen2", "qwen3", "mistral", "smollm3"]
PLAIN = ["gemma", "gemma3", "phi3"]
LENGTHS = [30, 41, 9, 47]


@dataclass
class Found:
    loss: float
    grads: list[Tensor]

    def error(self, exact: Found) -> tuple[float, float]:
        """Relative, of the loss and of all gradients together."""
        pairs = zip(self.grads, exact.grads, strict=True)
        off = torch.stack([(mine.double() - right).square().sum() for mine, right in pairs]).sum().sqrt()
        size = torch.stack([right.square().sum() for right in exact.grads]).sum().sqrt()
        return abs(self.loss - exact.loss) / abs(exact.loss), float(off / size)


def plain(model: Any, adapter: Adapter, batch: MicroBatch, dtype: torch.dtype) -> Found:
    """transformers and peft on each document alone."""
    rank = adapter.config.rank
    lora = LoraConfig(
        r=rank, lora_alpha=adapter.config.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    wrapped: Any = get_peft_model(model, lora).to(dtype)
    parameters = dict(wrapped.named_parameters())
    names = [name.replace(".weight", ".default.weight") for name in adapter.named_parameters()]
    with torch.no_grad():
        for name, tensor in zip(names, adapter.parameters(), strict=True):
            parameters[name].copy_(tensor)
    total = torch.zeros((), dtype=dtype)
    bounds = batch.cu_seqlens.tolist()
    for start, end in itertools.pairwise(bounds):
        inside = (batch.target_positions >= start) & (batch.target_positions < end)
        logits = wrapped(input_ids=batch.input_ids[None, start:end], use_cache=False).logits[0]
        picked = logits[batch.target_positions[inside] - start]
        total = total + F.cross_entropy(picked, batch.targets[inside], reduction="sum")
    total.backward()
    return Found(float(total.detach()), gradients([parameters[name] for name in names]))


def ours(loss: CausalLoss, adapter: Adapter, *batches: MicroBatch) -> Found:
    total = torch.stack([loss(batch) for batch in batches]).sum()
    total.backward()
    return Found(float(total.detach()), gradients(adapter.parameters()))


@pytest.mark.parametrize("shared", [0, 6])
@pytest.mark.parametrize("kind", FUSED + PLAIN)
def test_no_further_from_fp64_than_plain_fp32(load_base: Load, kind: str, shared: int) -> None:
    single, double, model = load_base(kind), load_base(kind), load_base(kind)
    adapter = adapt(model)
    batch = packed(alike(random_rows(LENGTHS), shared), 0, 1, 2, 3)
    exact = plain(double, adapter, batch, torch.float64)
    theirs = plain(single, adapter, batch, torch.float32).error(exact)
    mine = ours(CausalLoss.of(model), adapter, batch).error(exact)
    # A single sum of a loss may be right by chance: its error is that of fp32 at least.
    assert mine[0] <= 3 * max(theirs[0], 1e-7)
    assert mine[1] <= 3 * theirs[1]


@pytest.mark.parametrize("kind", FUSED + PLAIN)
def test_which_layers_are_fused(load_base: Load, kind: str) -> None:
    model = load_base(kind)
    adapt(model)
    assert use_fused_layers(model) == (len(model.base_model.layers) if kind in FUSED else 0)


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fused_layers_give_what_the_modules_give(
    load_base: Load, kind: str, dropout: float, checkpointing: bool
) -> None:
    model = load_base(kind)
    adapter = adapt(model, dropout=dropout)
    if checkpointing:
        checkpoint_activations(model)
    loss = CausalLoss.of(model)
    batch = packed(random_rows(LENGTHS), 0, 1, 2, 3)
    adapter.train(True)
    adapter.randomness.step, adapter.randomness.bins = 5, batch.bins
    fused = ours(loss, adapter, batch)
    with modules_own_way(model):
        modules = ours(loss, adapter, batch)
    assert fused.loss == pytest.approx(modules.loss, rel=1e-6)
    for mine, other in zip(fused.grads, modules.grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(*pair) for pair in zip(fused.grads, modules.grads, strict=True))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen2"])
def test_every_parameter_of_a_full_fine_tuning(load_base: Load, kind: str) -> None:
    model = load_base(kind)
    model.requires_grad_(True)
    loss = CausalLoss.of(model)
    batch = packed(random_rows(LENGTHS), 0, 1, 2, 3)
    found = []
    for own_way in (False, True):
        if own_way:
            with modules_own_way(model):
                loss(batch).backward()
        else:
            loss(batch).backward()
        found.append(gradients(list(model.parameters())))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_a_mask_of_the_step_that_the_loss_was_taken_in(load_base: Load) -> None:
    """The backward pass may come when the next micro-batch has been begun."""
    model = load_base()
    adapter = adapt(model, dropout=0.3)
    loss = CausalLoss.of(model)
    batch = packed(random_rows(LENGTHS), 0, 1)
    adapter.train(True)
    found = []
    for later in (1, 2):
        adapter.randomness.step, adapter.randomness.bins = 1, batch.bins
        total = loss(batch)
        adapter.randomness.step = later
        total.backward()
        found.append(gradients(adapter.parameters()))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_the_lowest_layer_computes_no_gradient_of_its_input(load_base: Load) -> None:
    model = load_base()
    adapt(model)
    loss = CausalLoss.of(model)
    inputs: list[Tensor] = []
    for layer in model.base_model.layers:
        layer.register_forward_pre_hook(lambda _layer, args: inputs.append(args[0]))
    loss(packed(random_rows(LENGTHS), 0, 1)).backward()
    assert [each.requires_grad for each in inputs] == [False, True]


def test_a_layer_that_is_not_what_it_seems_is_left_alone(load_base: Load) -> None:
    model = load_base()
    first = model.base_model.layers[0]

    class Other(type(first.mlp)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            gated: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x) * 0.5)
            return gated

    first.mlp.__class__ = Other
    assert use_fused_layers(model) == len(model.base_model.layers) - 1
    batch = packed(random_rows(LENGTHS), 0, 1)
    before = copy.deepcopy(model)
    with torch.no_grad(), modules_own_way(model):
        expected = CausalLoss.of(before)(batch)
        assert float(CausalLoss.of(model)(batch)) == pytest.approx(float(expected), rel=1e-6)
