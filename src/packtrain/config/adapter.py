"""`adapter:` what of the base is trained, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from packtrain.config.base import Section


class AdapterConfig(Section):
    kind: Literal["lora", "dora", "qlora", "none"] = "lora"
    """`lora`, or `none`: full fine-tuning, every weight of the base is trained, and the other keys
    here have no meaning. `dora` and `qlora` are reserved."""
    rank: int = Field(default=16, ge=1, le=1024)
    """Rank r of the update B·A. Higher learns more, costs memory in proportion."""
    alpha: float = Field(default=32.0, gt=0.0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the adapter's inputs that are dropped while training."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers: all but the head, or names such as `[q_proj, v_proj]`."""
