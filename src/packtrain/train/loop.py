"""The training loop: batches in, optimizer steps out, and something to report after each.

A step's gradient is that of the mean loss over the supervised tokens of the whole batch, the
same for every split into micro-batches. A step is done or not done: a stop in the middle of
accumulation drops what was accumulated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from packtrain.config import TrainConfig
from packtrain.data.batches import BatchPlan, MicroBatch, collate, micro_batches
from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import DivergedError
from packtrain.model.adapter import Adapter
from packtrain.model.loss import CausalLoss
from packtrain.train.checkpoint import TrainingState
from packtrain.train.optimizer import learning_rate


class StopBetweenSteps(Exception):
    """A stop was asked for; the state is that of the last completed step."""


@dataclass(frozen=True)
class StepResult:
    step: int
    loss: float
    """Mean over the batch's supervised tokens, nats."""
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
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    rows: TokenizedRows
    bins: Sequence[npt.NDArray[np.int64]]
    """Row indices of each bin."""
    plan: BatchPlan
    config: TrainConfig
    micro_batch: int
    device: torch.device

    def step(self, step: int, should_stop: Callable[[], bool]) -> StepResult:
        """Do optimizer step ``step`` (1 … plan.steps).

        Errors: :class:`StopBetweenSteps` when ``should_stop()`` says so between micro-batches;
        :class:`DivergedError` for a loss or gradient that is not finite, before any weight changes.
        """
        started = time.perf_counter()
        batches = self.micro_batches(step)
        supervised = sum(len(batch.targets) for batch in batches)
        total = torch.zeros((), device=self.device)
        self.adapter.train(True)
        for batch in batches:
            if should_stop():
                self.optimizer.zero_grad(set_to_none=True)
                raise StopBetweenSteps
            self.adapter.randomness.step = step
            self.adapter.randomness.bins = batch.bins
            on_device = batch.to(self.device)
            loss = self.loss(on_device)
            (loss / supervised).backward()
            total += loss.detach()
        self.adapter.train(False)
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), self.config.max_grad_norm)
        mean, grad_norm = float(total) / supervised, float(norm)
        if not (math.isfinite(mean) and math.isfinite(grad_norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise DivergedError(
                f"step {step}: the {'loss' if not math.isfinite(mean) else 'gradient'} is not finite "
                f"(loss {mean}, gradient norm {grad_norm}); rows of this batch: {self._places(batches)}",
                hint="lower train.learning_rate, or look at these rows with packtrain data",
            )
        rate = learning_rate(step, self.plan.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(batch.input_ids) for batch in batches)
        return StepResult(step, mean, tokens, supervised, rate, grad_norm, time.perf_counter() - started)

    def micro_batches(self, step: int) -> list[MicroBatch]:
        bin_ids = self.plan.batch(step)
        return [collate(self.rows, self.bins, ids) for ids in micro_batches(bin_ids, self.micro_batch)]

    def _places(self, batches: list[MicroBatch]) -> str:
        rows = np.concatenate([batch.rows for batch in batches])
        places = [self.rows.places[row] for row in rows]
        return ", ".join(places[:20]) + (f" and {len(places) - 20} more" if len(places) > 20 else "")


@dataclass(frozen=True)
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

    def checkpoint_due(self, step: int, seconds_since: float) -> bool:
        if step == self.steps:
            return True
        if self.checkpoint_steps is not None:
            return step % self.checkpoint_steps == 0
        assert self.checkpoint_seconds is not None
        return seconds_since >= self.checkpoint_seconds


@dataclass
class Hooks:
    """What the loop calls: each does one thing and may raise to end the run."""

    should_stop: Callable[[], bool]
    on_step: Callable[[StepResult], None]
    evaluate: Callable[[TrainingState], None]
    save: Callable[[TrainingState], None]


def run_loop(trainer: Trainer, state: TrainingState, schedule: Schedule, hooks: Hooks) -> None:
    """From ``state.step`` to the plan's end. ``state`` is kept true at every moment.

    Errors: :class:`StopBetweenSteps`, after saving.
    """
    saved_step, saved_at = state.step, time.monotonic()
    try:
        while True:
            if schedule.evaluation_due(state.step) and state.evaluated != state.step:
                hooks.evaluate(state)
                state.evaluated = state.step
            since = time.monotonic() - saved_at
            if state.step > saved_step and schedule.checkpoint_due(state.step, since):
                hooks.save(state)
                saved_step, saved_at = state.step, time.monotonic()
            if state.step >= schedule.steps:
                return
            if hooks.should_stop():
                raise StopBetweenSteps
            result = trainer.step(state.step + 1, hooks.should_stop)
            state.step = result.step
            state.tokens += result.tokens
            state.supervised_tokens += result.supervised_tokens
            state.loss_sum += result.loss * result.supervised_tokens
            state.seconds += result.seconds
            hooks.on_step(result)
    except StopBetweenSteps:
        if state.step > saved_step:
            hooks.save(state)
        raise
