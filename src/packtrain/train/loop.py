"""The training loop: batches in, optimizer steps out, and something to report after each.

A step's gradient is that of the mean loss over the supervised tokens of the whole batch, each counted
as its row's weight says, the same for every split into micro-batches and over ranks. A step is done or
not done: a stop in the middle of accumulation drops what was accumulated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from packtrain.config import TrainConfig
from packtrain.data.batches import Bins, MicroBatch, Plan, collate, micro_batches
from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import DivergedError
from packtrain.model.loss import CausalLoss
from packtrain.model.parallel import World, whole
from packtrain.model.trainable import Trainable
from packtrain.train.checkpoint import TrainingState
from packtrain.train.optimizer import learning_rate, set_rate
from packtrain.train.streamed import StreamedPlan, StreamEndedError


class StopBetweenSteps(Exception):
    """A stop was asked for; the state is that of the last completed step."""


@dataclass(frozen=True)
class StepResult:
    step: int
    loss: float
    """Mean over the batch's supervised tokens (by their rows' weights), nats."""
    tokens: int
    supervised_tokens: int
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


@dataclass
class Trainer:
    """All that a step needs; it decides nothing about evaluation, saving or stopping."""

    loss: CausalLoss
    adapter: Trainable
    """The adapter, or all of the base."""
    optimizer: torch.optim.Optimizer
    rows: TokenizedRows
    bins: Bins
    """Row indices of each bin."""
    plan: Plan
    config: TrainConfig
    micro_batch: int
    device: torch.device
    world: World
    sharded: bool = False
    """Whether FSDP2 spreads the model, and adds up the gradients by itself."""
    stream: StreamedPlan | None = None
    """``plan``, where rows and bins come a window at a time."""

    def step(self, step: int, should_stop: Callable[[], bool]) -> StepResult:
        """Do optimizer step ``step`` (1 … plan.steps), this rank's part of it.

        Errors: :class:`StreamEndedError` where the data cannot be read further;
        :class:`StopBetweenSteps` when ``should_stop()`` says so, on all ranks alike, between
        micro-batches; :class:`DivergedError` for a loss or gradient that is not finite, before any
        weight changes.
        """
        started = time.perf_counter()
        if self.stream is not None:
            window = self.stream.turn_to(step, lambda: _check(should_stop))
            self.rows, self.bins = window.rows, window.bins
        batches, turns = self.micro_batches(step)
        bin_ids = self.plan.batch(step)
        rows = np.concatenate([self.bins[bin_id] for bin_id in bin_ids])
        supervised, tokens = int(self.rows.targets[rows].sum()), int(self.rows.lengths[rows].sum())
        counting = self.rows.counting(rows)
        total = torch.zeros((), device=self.device)
        self.adapter.train(True)
        for turn in range(turns):
            if should_stop():
                self.optimizer.zero_grad(set_to_none=True)
                raise StopBetweenSteps
            if turn < len(batches):
                total += self._backward(step, batches[turn], counting)
            elif self.sharded:
                # The others need this rank's shards for their turn; its own adds nothing.
                idle = collate(self.rows, self.bins, bin_ids[:1])
                self._backward(step, idle, counting, weight=0.0)
        self.adapter.train(False)
        self.world.sum(total)
        if not self.sharded:
            self.world.sum_gradients(self.adapter.parameters())
        norm = whole(torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), self.config.max_grad_norm))
        # Once a step the host waits for the device: for both numbers together.
        summed, grad_norm = torch.stack([total, norm.to(total)]).tolist()
        mean = summed / counting
        if not (math.isfinite(mean) and math.isfinite(grad_norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise DivergedError(
                f"step {step}: the {'loss' if not math.isfinite(mean) else 'gradient'} is not finite "
                f"(loss {mean}, gradient norm {grad_norm}); rows of this batch: {self._places(rows)}",
                hint="lower train.learning_rate, or look at these rows with packtrain data",
            )
        rate = learning_rate(step, self.plan.steps, self.config)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(step, mean, tokens, supervised, rate, grad_norm, time.perf_counter() - started)

    def _backward(self, step: int, batch: MicroBatch, counting: float, weight: float = 1.0) -> torch.Tensor:
        """Add a micro-batch's part of the gradient; the sum of its losses. ``counting``: of the batch."""
        self.adapter.randomness.step = step
        self.adapter.randomness.bins = batch.bins
        loss: torch.Tensor = self.loss(batch.to(self.device))
        (loss * (weight / counting)).backward()
        return loss.detach()

    def micro_batches(self, step: int) -> tuple[list[MicroBatch], int]:
        """This rank's micro-batches, and how many turns the rank with the most has."""
        bin_ids = self.plan.batch(step)
        own = bin_ids[self.world.rank :: self.world.size]
        most = -(-len(bin_ids) // self.world.size)
        batches = [collate(self.rows, self.bins, ids) for ids in micro_batches(own, self.micro_batch)]
        return batches, -(-most // self.micro_batch)

    def _places(self, rows: npt.NDArray[np.int64]) -> str:
        places = [self.rows.places[row] for row in rows]
        return ", ".join(places[:20]) + (f" and {len(places) - 20} more" if len(places) > 20 else "")


def _check(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise StopBetweenSteps


@dataclass
class Schedule:
    """When something beside a step is due; all steps counted from the start of the run."""

    steps: int
    evaluate_every: int | None
    checkpoint_steps: int | None
    checkpoint_seconds: float | None

    def evaluation_due(self, step: int) -> bool:
        if self.evaluate_every is None:
            return False
        return step in (0, self.steps) or step % self.evaluate_every == 0

    def checkpoint_due(self, steps_since: int, seconds_since: float) -> bool:
        """Counted from the last checkpoint. The end of a run is saved whatever this says."""
        if self.checkpoint_steps is not None:
            return steps_since >= self.checkpoint_steps
        assert self.checkpoint_seconds is not None
        return seconds_since >= self.checkpoint_seconds

    def save_twice_as_often(self) -> None:
        """So that a death without a save loses less."""
        if self.checkpoint_steps is not None:
            self.checkpoint_steps = max(1, self.checkpoint_steps // 2)
        if self.checkpoint_seconds is not None:
            self.checkpoint_seconds = max(1.0, self.checkpoint_seconds / 2)


@dataclass
class Hooks:
    """What the loop calls: each does one thing and may raise to end the run."""

    should_stop: Callable[[], bool]
    on_step: Callable[[StepResult], None]
    evaluate: Callable[[TrainingState], None]
    save: Callable[[TrainingState, bool], bool]
    """``save(state, wait)``: whether a checkpoint of this state is complete or being written."""


def run_loop(trainer: Trainer, state: TrainingState, schedule: Schedule, hooks: Hooks) -> None:
    """From ``state.step`` to the plan's end. ``state`` is kept true at every moment.

    Errors: :class:`StopBetweenSteps`, and what keeps streamed data from being read, after saving.
    """
    saved_step, saved_at = state.step, time.monotonic()
    try:
        while True:
            if schedule.evaluation_due(state.step) and state.evaluated != state.step:
                hooks.evaluate(state)
                state.evaluated = state.step
            done, unsaved = state.step >= schedule.steps, state.step - saved_step
            due = schedule.checkpoint_due(unsaved, time.monotonic() - saved_at)
            # Clocks differ between ranks, and all of them take part in a save.
            if unsaved and trainer.world.any(due or done) and hooks.save(state, done):
                saved_step, saved_at = state.step, time.monotonic()
            if done:
                return
            if hooks.should_stop():
                raise StopBetweenSteps
            result = trainer.step(state.step + 1, hooks.should_stop)
            state.step = result.step
            state.tokens += result.tokens
            state.supervised_tokens += result.supervised_tokens
            state.loss_sum += result.loss * result.supervised_tokens
            state.seconds += result.seconds
            if trainer.stream is not None:
                state.stream |= trainer.stream.mark(state.step).to_plain()
            hooks.on_step(result)
    except StreamEndedError as ended:
        hooks.save(state, True)
        raise ended.reason from None
    except StopBetweenSteps:
        # Also one that is being written: a stop is answered when it is on the disk.
        hooks.save(state, True)
        raise
