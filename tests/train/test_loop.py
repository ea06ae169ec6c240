"""The loop: exact steps, stops at any moment, and what diverges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed import gradients
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from packtrain.errors import DivergedError
from packtrain.train.checkpoint import TrainingState
from packtrain.train.loop import Hooks, Schedule, StepResult, StopBetweenSteps, Trainer, run_loop

MakeTrainer = Callable[..., Trainer]
ALL_STEPS = Schedule(steps=6, evaluate_every=2, checkpoint_steps=2, checkpoint_seconds=None)


class Recorder:
    """Hooks that note what was called, and stop after so many questions."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.asked = stop_at, 0
        self.steps: list[StepResult] = []
        self.calls: list[tuple[str, int]] = []

    def should_stop(self) -> bool:
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at

    def save(self, state: TrainingState, wait: bool) -> bool:
        self.calls.append(("save", state.step))
        return True

    def hooks(self) -> Hooks:
        return Hooks(
            self.should_stop,
            self.steps.append,
            lambda state: self.calls.append(("evaluate", state.step)),
            self.save,
        )


def run(
    trainer: Trainer, state: TrainingState | None = None, **kwargs: Any
) -> tuple[Recorder, TrainingState]:
    recorder, state = Recorder(**kwargs), state or TrainingState()
    run_loop(trainer, state, ALL_STEPS, recorder.hooks())
    return recorder, state


def test_does_every_step_and_what_is_due(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    recorder, state = run(trainer)
    assert [result.step for result in recorder.steps] == [1, 2, 3, 4, 5, 6]
    assert recorder.calls == [
        ("evaluate", 0),
        *(call for step in (2, 4, 6) for call in (("evaluate", step), ("save", step))),
    ]
    assert state.tokens == 2 * 240
    assert state.supervised_tokens == sum(result.supervised_tokens for result in recorder.steps) == 2 * 120
    assert recorder.steps[-1].loss < recorder.steps[0].loss
    assert state.train_loss == pytest.approx(sum(result.loss for result in recorder.steps) / 6)


def test_a_seed_repeats_a_run_to_the_bit(make_trainer: MakeTrainer) -> None:
    first, second = make_trainer(), make_trainer()
    torch.manual_seed(1)
    one, _ = run(first)
    torch.manual_seed(2)
    two, _ = run(second)
    assert [result.loss for result in one.steps] == [result.loss for result in two.steps]
    for name, tensor in first.adapter.tensors().items():
        assert torch.equal(tensor, second.adapter.tensors()[name])


class KeepsGradients(torch.optim.SGD):
    """Does not clear them, so that a test can look."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_accumulation_1_2_4_gives_the_same_gradient(make_trainer: MakeTrainer, dropout: float) -> None:
    found = []
    for micro_batch in (4, 2, 1):
        trainer = make_trainer(micro_batch=micro_batch, dropout=dropout, max_grad_norm=1e9)
        # One batch of four bins, so that accumulation is 1, 2 and 4.
        object.__setattr__(trainer.plan, "batch_tokens", 160)
        trainer.optimizer = KeepsGradients(trainer.adapter.parameters(), lr=0.0)
        result = trainer.step(1, lambda: False)
        assert len(trainer.micro_batches(1)[0]) == -(-len(trainer.plan.batch(1)) // micro_batch)
        found.append((result.loss, result.grad_norm, gradients(trainer.adapter.parameters())))
    for loss, norm, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        assert norm == pytest.approx(found[0][1], rel=1e-4)
        for grad, other in zip(grads, found[0][2], strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_a_stop_at_any_moment_leaves_the_state_of_the_last_whole_step(
    make_trainer: MakeTrainer, stop_at: int
) -> None:
    trainer = make_trainer(micro_batch=1)
    recorder, state = Recorder(stop_at), TrainingState()
    with pytest.raises(StopBetweenSteps):
        run_loop(trainer, state, ALL_STEPS, recorder.hooks())
    assert state.step == len(recorder.steps)
    assert recorder.calls[-1] == ("save", state.step) or state.step == 0
    assert all(parameter.grad is None for parameter in trainer.adapter.parameters())
    undisturbed = make_trainer(micro_batch=1)
    whole, _ = run(undisturbed)
    again, _ = run(trainer, state)
    assert [r.loss for r in recorder.steps + again.steps] == [r.loss for r in whole.steps]
    for name, tensor in trainer.adapter.tensors().items():
        assert torch.equal(tensor, undisturbed.adapter.tensors()[name])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_stops_with_the_step_and_the_rows(make_trainer: MakeTrainer, poison: float) -> None:
    trainer = make_trainer()
    run_step = trainer.step(1, lambda: False)
    assert run_step.step == 1
    name, parameter = next(iter(trainer.adapter.named_parameters().items()))
    with torch.no_grad():
        parameter[0, 0] = poison
    before = trainer.adapter.tensors()
    with pytest.raises(DivergedError, match=r"step 2: the loss is not finite .* rows of this batch: rows:\d"):
        trainer.step(2, lambda: False)
    after = trainer.adapter.tensors()
    assert all(torch.equal(tensor.nan_to_num(), after[key].nan_to_num()) for key, tensor in before.items())
    assert name in after


def test_a_checkpoint_is_due_by_time_too() -> None:
    schedule = Schedule(steps=10, evaluate_every=None, checkpoint_steps=None, checkpoint_seconds=60.0)
    assert not schedule.checkpoint_due(3, 59.0)
    assert schedule.checkpoint_due(3, 60.0)
    schedule.save_twice_as_often()
    assert schedule.checkpoint_due(3, 30.0)
    assert not schedule.evaluation_due(0)


def test_a_save_that_could_not_begin_is_asked_for_again(make_trainer: MakeTrainer) -> None:
    recorder = Recorder()
    asked: list[tuple[int, bool]] = []

    def busy_at_first(state: TrainingState, wait: bool) -> bool:
        asked.append((state.step, wait))
        return len(asked) > 1

    hooks = recorder.hooks()
    hooks.save = busy_at_first
    run_loop(make_trainer(), TrainingState(), ALL_STEPS, hooks)
    assert asked == [(2, False), (3, False), (5, False), (6, True)]


class Reads(TorchDispatchMode):
    """Counts what a GPU's host would wait for: a number read, or a result whose size is in the data."""

    WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim"})

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func is torch.ops.aten.index.Tensor and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in args[1]
        )
        self.count += by_mask or func._schema.name.removeprefix("aten::") in self.WAITS
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts ``tolist`` of losses and the like, which no dispatch mode sees.

    Whole numbers are left out: attention on the CPU reads the documents' bounds.
    """

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.Tensor.tolist and args[0].is_floating_point()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x[0]),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.masked_select(x, x > 0),
        torch.unique,
    ],
    ids=["number", "nonzero", "by mask", "selected", "unique"],
)
def test_what_waits_is_seen(wait: Callable[[torch.Tensor], object]) -> None:
    with Reads() as reads:
        wait(torch.tensor([1.0, 0.0]))
    assert reads.count > 0


def test_within_a_step_the_device_is_waited_for_once(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(micro_batch=1)
    with Reads() as reads, Lists() as lists:
        trainer.step(1, lambda: False)
        # Loss and norm, together.
        assert (reads.count, lists.count) == (0, 1)
