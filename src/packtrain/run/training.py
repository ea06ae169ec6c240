"""From a run file to a checked adapter with its receipt: the stages between, in order."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from packtrain.errors import DivergedError, GateError, PreemptedError
from packtrain.evaluate.answers import Answer, Score, answers, score
from packtrain.evaluate.loss import Evaluation, evaluate_loss
from packtrain.model.attention import plain_attention
from packtrain.run.finish import save_adapter
from packtrain.run.fit import Fit, set_up
from packtrain.train import checkpoint
from packtrain.train.checkpoint import TrainingState
from packtrain.train.loop import Hooks, StepResult, StopBetweenSteps, run_loop

if TYPE_CHECKING:
    from packtrain.artifacts.receipt import Receipt
    from packtrain.run.session import Session


def make_adapter(session: Session) -> Receipt:
    """Train, evaluate, write and check the adapter; its receipt."""
    fit = set_up(session)
    session.emit(
        "start",
        fit.state.step,
        run_id=session.identity.run_id,
        name=fit.config.name,
        resumed_from=fit.state.step or None,
        steps=fit.schedule.steps,
        rows=len(fit.data.train),
        **fit.state.settings,
    )
    for warning in fit.data.report.warnings():
        session.warn(warning, fit.state.step)
    with session.stop.deferred():
        _train(session, fit)
    made = _answer(session, fit)
    session.progress.close()
    if made:
        session.on_answers(made)
    check_gates(fit, score(made))
    return save_adapter(session, fit, made)


def _train(session: Session, fit: Fit) -> None:
    state, trainer = fit.state, fit.trainer

    def should_stop() -> bool:
        session.lock.check()
        return session.stop.requested

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
            epoch=round(trainer.plan.epoch_at(result.step), 4),
        )

    def evaluate(state: TrainingState) -> None:
        result = _evaluate(session, fit)
        session.emit(
            "eval",
            state.step,
            model="adapter" if state.step else "base",
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

    def save(state: TrainingState) -> None:
        session.lock.check()
        started = time.monotonic()
        path = checkpoint.save(
            session.run_dir.checkpoints, state, trainer.adapter, trainer.optimizer, fit.config.checkpoint.keep
        )
        session.emit("checkpoint", state.step, name=path.name, seconds=round(time.monotonic() - started, 3))

    session.progress.begin(state.step, fit.schedule.steps)
    try:
        run_loop(trainer, state, fit.schedule, Hooks(should_stop, on_step, evaluate, save))
    except StopBetweenSteps as stopped:
        raise PreemptedError(
            f"stopped by {session.stop.signal} after step {state.step} of {fit.schedule.steps}",
            hint="what was done is saved; the same command goes on from there",
        ) from stopped


def _evaluate(session: Session, fit: Fit) -> Evaluation:
    assert fit.data.validation is not None
    session.progress.stage("evaluating", brief=True)

    def on_batch(done: int, total: int) -> None:
        session.progress.tick(done, total)
        if session.stop.requested:
            raise StopBetweenSteps

    return evaluate_loss(
        fit.trainer.loss,
        fit.data.validation,
        fit.data.validation_bins,
        micro_batch=fit.trainer.micro_batch,
        device=fit.trainer.device,
        world=fit.trainer.world,
        on_batch=on_batch,
    )


def _answer(session: Session, fit: Fit) -> list[Answer]:
    prompts = fit.config.evaluate.prompts
    if not prompts:
        return []
    session.stage("answering the prompts, before and after")
    return answers(
        fit.model,
        fit.tokenizer,
        prompts,
        max_new_tokens=fit.config.evaluate.max_new_tokens,
        disabled=fit.adapter.disabled,
        attention=lambda: plain_attention(fit.model),
        on_progress=session.progress.tick,
    )


def check_gates(fit: Fit, result: Score | None) -> None:
    """``evaluate.fail_if``: an adapter that is not as good as asked is not published (exit 76)."""
    limits, loss, base_loss = fit.config.evaluate.fail_if, fit.state.loss, fit.state.base_loss
    if limits.loss_above is not None and loss is not None and loss > limits.loss_above:
        raise GateError(f"evaluate.fail_if: the validation loss {loss:.4f} is above {limits.loss_above}")
    if limits.worse_than_base and loss is not None and base_loss is not None and loss > base_loss:
        raise GateError(
            f"evaluate.fail_if: the adapter's validation loss {loss:.4f} is above the base's {base_loss:.4f}"
        )
    if limits.answers_below is not None and result is not None and result.share_after < limits.answers_below:
        raise GateError(
            f"evaluate.fail_if: {result.after} of {result.asked} prompts are answered as expected; "
            f"at least {limits.answers_below:.0%} was asked for"
        )
