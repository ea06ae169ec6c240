"""`report:` who else is told of a run as it goes on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from packtrain.config.base import Section

Tracker = Literal["wandb", "mlflow", "trackio"]


class ReportConfig(Section):
    to: list[Tracker] = Field(default=[])
    """Trackers that get settings and numbers beside TensorBoard: any of `[wandb, mlflow, trackio]`, each an
    extra (`packtrain[wandb]`). Where and as whom, their own environment variables say."""
