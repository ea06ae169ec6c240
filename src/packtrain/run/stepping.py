"""The training loop of a run: its events, evaluations and checkpoints, on every rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packtrain.config import seconds
from packtrain.errors import DivergedError, PreemptedError
from packtrain.evaluate.loss import Evaluation, evaluate_loss
from packtrain.model.parallel import resharded
from packtrain.train.checkpoint import TrainingState, take_snapshot
from packtrain.train.loop import Hooks, StepResult, StopBetweenSteps, run_loop
from packtrain.train.progress import peak_memory

if TYPE_CHECKING:
    from packtrain.run.fit import Fit
    from packtrain.run.session import Session


def train(session: Session, fit: Fit) -> None:
    """To the end of the plan. Errors: :class:`PreemptedError`, with all that was done saved."""
    state = fit.state
    saver = _Saver(session, fit, saved_step=state.step)
    world = fit.trainer.world

    def should_stop() -> bool:
        session.check_lock()
        return world.any(session.stop.requested)

    def on_step(result: StepResult) -> None:
        session.emit(
            "step",
            result.step,
            loss=result.loss,
            tokens=result.tokens,
            supervised_tokens=result.supervised_tokens,
            learning_rate=result.learning_rate,
            grad_norm=result.grad_norm,
            tokens_per_second=round(result.tokens_per_second, 1),
            epoch=round(fit.trainer.plan.epoch_at(result.step), 4),
            peak_bytes=peak_memory(),
        )
        saver.tell()

    def evaluate(state: TrainingState) -> None:
        result = _evaluate(session, fit)
        session.emit(
            "eval",
            state.step,
            model=("model" if fit.config.full else "adapter") if state.step else "base",
            loss=result.loss,
            perplexity=result.perplexity,
            supervised_tokens=result.supervised_tokens,
        )
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"step {state.step}: the validation loss is not finite ({result.loss})",
                hint="lower train.learning_rate",
            )
        if state.step == 0:
            state.base_loss = result.loss
        state.loss = result.loss
        session.progress.begin(state.step, fit.schedule.steps)

    session.progress.begin(state.step, fit.schedule.steps)
    try:
        run_loop(fit.trainer, state, fit.schedule, Hooks(should_stop, on_step, evaluate, saver.save))
    except StopBetweenSteps as stopped:
        session.stop.answer = PreemptedError(
            f"stopped by {session.stop.signal or 'a signal to another rank'} after step {state.step} of "
            f"{fit.schedule.steps}",
            hint="what was done is saved; the same command goes on from there",
        )
        raise session.stop.answer from stopped


@dataclass
class _Saver:
    """Takes snapshots, on all ranks; the main one has them written beside training."""

    session: Session
    fit: Fit
    saved_step: int
    told_grace: bool = False
    told_blocked: float = 0.0

    def save(self, state: TrainingState, wait: bool) -> bool:
        store, writer, world = self.fit.store, self.fit.part_writer, self.fit.trainer.world
        self.session.check_lock()
        busy = any(each is not None and not each.ready for each in (store, writer))
        if not wait and world.any(busy):
            return False
        # A stop is answered by a checkpoint that is known to be whole: one that is still being written
        # is waited for, and written again.
        if state.step > self.saved_step or (wait and state.step > 0):
            snapshot = take_snapshot(state, self.fit.adapter, self.fit.trainer.optimizer, self.fit.part)
            if store is not None:
                store.save(snapshot, wait=wait)
            if writer is not None:
                writer.save(snapshot, wait=wait)
            self.saved_step = state.step
        self.tell()
        return True

    def tell(self) -> None:
        """An event for each checkpoint that was completed meanwhile."""
        store = self.fit.store
        if store is None:
            return
        for saved in store.poll():
            self.session.emit(
                "checkpoint",
                saved.step,
                name=f"step-{saved.step}",
                seconds=round(saved.seconds, 3),
                bytes=saved.bytes,
                mirrored=saved.mirrored,
                blocked=round(store.seconds_blocked - self.told_blocked, 4),
            )
            self.told_blocked = store.seconds_blocked
        if self.session.keeping is not None and self.session.keeping.events is not None:
            for warning in self.session.keeping.events.poll():
                self.session.warn(warning, self.fit.state.step)
        grace = seconds(self.fit.config.checkpoint.grace)
        if not self.told_grace and not store.fits_grace(grace):
            self.told_grace = True
            self.fit.schedule.save_twice_as_often()
            self.session.warn(
                f"a checkpoint takes {store.last_seconds:.1f} s, too long for checkpoint.grace "
                f"{self.fit.config.checkpoint.grace}: it is saved twice as often instead",
                self.fit.state.step,
            )


def _evaluate(session: Session, fit: Fit) -> Evaluation:
    assert fit.data.validation is not None
    session.progress.stage("evaluating", brief=True)
    world = fit.trainer.world

    def on_batch(done: int, total: int) -> None:
        session.progress.tick(done, total)
        if world.any(session.stop.requested):
            raise StopBetweenSteps

    with resharded(fit.trainer.loss):
        return evaluate_loss(
            fit.trainer.loss,
            fit.data.validation,
            fit.data.validation_bins,
            micro_batch=fit.trainer.micro_batch,
            device=fit.trainer.device,
            world=world,
            on_batch=on_batch,
        )
