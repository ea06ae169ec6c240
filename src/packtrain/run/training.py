"""From a run file to a checked adapter with its receipt: the stages between, in order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from packtrain.errors import BugError, GateError
from packtrain.evaluate.answers import Answer, Score, answers, score
from packtrain.model.attention import plain_attention
from packtrain.run.finish import save_adapter, whole_again
from packtrain.run.fit import Fit, set_up
from packtrain.run.pod import image
from packtrain.run.stepping import train

if TYPE_CHECKING:
    from packtrain.artifacts.receipt import Receipt
    from packtrain.run.session import Session


def make_adapter(session: Session) -> Receipt | None:
    """Train, evaluate, write and check the adapter; its receipt (None on ranks that are not the main)."""
    fit = set_up(session)
    try:
        session.emit(
            "start",
            fit.state.step,
            run_id=session.identity.run_id if session.keeping else None,
            name=fit.config.name,
            resumed_from=fit.state.step or None,
            steps=fit.schedule.steps,
            rows=len(fit.data.train),
            processes=fit.trainer.world.size,
            **fit.state.settings,
            **({"image": made_in} if (made_in := image()) else {}),
        )
        for warning in fit.data.report.warnings():
            session.warn(warning, fit.state.step)
        with session.stop.deferred():
            train(session, fit)
        tensors = fit.adapter.tensors()
        _check_ranks(fit, tensors)
        if not fit.trainer.world.is_main:
            return None
        if fit.trainer.sharded:
            fit = whole_again(fit, tensors)
        made = _answer(session, fit)
        session.progress.close()
        if made:
            session.on_answers(made)
        check_gates(fit, score(made))
        return save_adapter(session, fit, made)
    finally:
        if fit.store is not None:
            fit.store.close(wait_for_mirror=True, timeout=session.seconds_left())


def _check_ranks(fit: Fit, tensors: dict[str, torch.Tensor]) -> None:
    """What is saved is what was trained on every rank."""
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors.values())).hexdigest()
    ranks = fit.trainer.world.gather(digest)
    if len(set(ranks)) > 1:
        raise BugError(f"the ranks trained different adapters: {', '.join(each[:8] for each in ranks)}")


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
