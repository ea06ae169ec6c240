"""``evaluate.fail_if``: what is not as good as asked is kept, and not published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packtrain.errors import GateError
from packtrain.evaluate.answers import Score

if TYPE_CHECKING:
    from packtrain.run.fit import Fit


def check_gates(fit: Fit, result: Score | None, folder: Path) -> None:
    """Raises GateError for a result that is worse than asked. It lies in ``folder``, checked."""
    what = "model" if fit.config.full else "adapter"
    sentence = _worse(fit, result, what)
    if sentence is not None:
        raise GateError(
            f"evaluate.fail_if: {sentence}",
            hint=f"the {what} is in {folder}, without a receipt and unpublished (packtrain chat {folder}); "
            "the same command with a looser limit publishes it",
        )


def _worse(fit: Fit, result: Score | None, what: str) -> str | None:
    limits, loss, base_loss = fit.config.evaluate.fail_if, fit.state.loss, fit.state.base_loss
    if limits.loss_above is not None and loss is not None and loss > limits.loss_above:
        return f"the validation loss {loss:.4f} is above {limits.loss_above}"
    if limits.worse_than_base and loss is not None and base_loss is not None and loss > base_loss:
        return f"the {what}'s validation loss {loss:.4f} is above the base's {base_loss:.4f}"
    if limits.answers_below is not None and result is not None and result.share_after < limits.answers_below:
        return (
            f"{result.after} of {result.asked} prompts are answered as expected; "
            f"at least {limits.answers_below:.0%} was asked for"
        )
    return None
