"""The step that is traced: the model of a set-up with a few of its layers, and one optimizer step on it.

Everything is what a run does with the same calls (:mod:`packtrain.run.spread`,
:mod:`packtrain.train.loop`), on tensors that have a shape and no content.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from packtrain.config import TrainConfig
from packtrain.model.parallel import World, mesh_of
from packtrain.model.quiet import quiet_transformers
from packtrain.plan import described
from packtrain.plan.build import Built, ours, theirs
from packtrain.plan.ledger import CUDA_BLOCK, Ledger, Peak
from packtrain.plan.setup import Setup
from packtrain.train.optimizer import make_optimizer

#: How a phase is called: (what, layer); the layer is -1 where there is none.
Phase = tuple[str, int]


@dataclass(frozen=True)
class Call:
    """One collective."""

    phase: str
    name: str
    ranks: tuple[int, ...]
    size: int
    """Bytes of the whole tensor."""


@dataclass(frozen=True)
class Observed:
    """A step of a model with some number of layers."""

    layers: int
    peaks: dict[Phase, Peak]
    resident: int
    flops: float
    calls: tuple[Call, ...]


def observe(setup: Setup, layers: int) -> Observed:
    """Trace a step of ``setup``'s model cut to ``layers`` layers. Errors: :class:`ConfigError`."""
    with ExitStack() as stack:
        stack.enter_context(quiet_transformers())
        # What libraries say to who trains is not for who plans.
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(_process_group(setup.gpus))
        world = World(
            size=setup.gpus,
            # A group of one to a node has nothing to shard over: then the shards go over all.
            local_size=setup.gpus_per_node if setup.sharding == "hsdp" else 1,
        )
        mesh = None if setup.sharding == "none" else mesh_of(world)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        ledger = Ledger(block=CUDA_BLOCK if setup.device == "cuda" else 1)
        stack.enter_context(ledger)
        stack.enter_context(ledger.resizing())
        described.on_flops.append(ledger.add_flops)
        stack.callback(described.on_flops.remove, ledger.add_flops)
        built = theirs(setup, layers, mesh) if setup.peft else ours(setup, layers, mesh)
        step = _Step(setup, ledger, built, world)
        if setup.fused_norms:
            stack.enter_context(described.fused_norms(step.model))
        resident = step.run()
        calls = tuple(
            Call(_phase(phase)[0], name, _ranks(group), size) for phase, name, group, size in ledger.calls
        )
        peaks = {
            _phase(name): peak for name, peak in ledger.peaks().items() if name not in ("before", "after")
        }
        return Observed(layers, peaks, resident, ledger.flops, calls)


@dataclass
class _Step:
    """Runs the step, and tells the ledger what is going on."""

    setup: Setup
    ledger: Ledger
    built: Built
    world: World
    backward: bool = False

    @property
    def model(self) -> PreTrainedModel:
        return self.built.model

    def run(self) -> int:
        """Bytes that stand before the step; afterwards the ledger has the rest."""
        ledger, parameters = self.ledger, self.built.parameters()
        trained = {id(parameter) for parameter in parameters}
        optimizer = self._optimizer(parameters)
        self._state(optimizer, parameters)
        for parameter in self.model.parameters():
            full = self.setup.adapter.kind == "none"
            ledger.name("weights" if full or id(parameter) not in trained else "adapter", [parameter])
        ledger.name("weights", _scales(self.model))
        self._watch()
        resident = ledger.standing()
        ledger.flops = 0.0
        ledger.calls.clear()
        if self.setup.accumulation > 1:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
        ledger.enter_phase("forward -1")
        loss = self.built.forward()
        ledger.enter_phase("loss -1")
        self.backward = True
        loss.backward()
        ledger.kind = "activations"
        ledger.enter_phase("optimizer -1")
        del loss
        if self.setup.sharding == "none":
            ledger.name("gradients", (parameter.grad for parameter in parameters))
            self.world.sum_gradients(parameters)
        ledger.name("gradients", (parameter.grad for parameter in parameters))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ledger.enter_phase("after")
        return resident

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.setup.optimizer == "foreach":
            return torch.optim.AdamW(parameters, foreach=True)
        return make_optimizer(parameters, TrainConfig())

    def _state(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        """AdamW's moments, which stand from the first step on."""
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for state in optimizer.state.values():
            self.ledger.name("optimizer", (value for value in state.values() if isinstance(value, Tensor)))

    def _watch(self) -> None:
        """Say when a layer's forward or backward pass begins."""
        layers = self.built.layers
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._begins(number))
            layer.register_forward_hook(self._ended(number, last=number == len(layers) - 1))

    def _begins(self, number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if not self.backward:
                self.ledger.enter_phase(f"forward {number}")

        return hook

    def _ended(self, number: int, *, last: bool) -> Callable[..., None]:
        def starts(_: Tensor) -> None:
            self.ledger.kind = "activations"
            self.ledger.enter_phase(f"backward {number}")

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self.backward:
                return
            hidden = output if isinstance(output, Tensor) else output[0]
            if hidden.requires_grad:
                hidden.register_hook(starts)
            if last:
                self.ledger.kind = "logits_and_loss"
                self.ledger.enter_phase("loss -1")

        return hook


def _scales(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, described.Nf4Linear):
            yield from (module.scales, module.nested)


def _phase(name: str) -> Phase:
    what, _, layer = name.rpartition(" ")
    return what, int(layer)


@contextmanager
def _process_group(ranks: int) -> Iterator[None]:
    """A group of any size in which nobody else is there."""
    if ranks == 1:
        yield
        return
    importlib.import_module("torch.distributed._tools.fake_collectives")  # registers what they do
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _ranks(group: Any) -> tuple[int, ...]:
    if group is None:
        return ()
    found = dist.ProcessGroup.unbox(group) if hasattr(dist.ProcessGroup, "unbox") else group
    return tuple(dist.get_process_group_ranks(found))
