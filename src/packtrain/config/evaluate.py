"""`evaluate:` how a run is judged while it goes on, and at its end."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from packtrain.config.base import Expected, Section, Share, Steps


class Prompt(Section):
    prompt: str = Field(min_length=1)
    """The user's turn."""
    expect: Expected | Annotated[list[Expected], Field(min_length=1)] | None = None
    """The answer counts as right when it contains this (any of these), whatever the case."""


class FailIf(Section):
    loss_above: float | None = Field(default=None, gt=0.0)
    """End as a failure, unpublished, when the final validation loss is above this."""
    worse_than_base: bool = False
    """End as a failure, unpublished, when the final validation loss is above the base's."""
    answers_below: float | None = Field(default=None, ge=0.0, le=1.0)
    """End as a failure, unpublished, when a smaller share of the prompts is answered as expected."""


class EvaluateConfig(Section):
    every: Share | Steps = 0.1
    """Between two evaluations: a share of the run, or (a whole number) steps."""
    prompts: list[str | Prompt] = Field(default=[])
    """Answered by the base and by the adapter at the end, side by side."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest answer to a prompt, in tokens."""
    fail_if: FailIf = FailIf()
    """What makes a finished run a failure (exit 76)."""
