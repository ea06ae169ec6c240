"""`adapter:` what of the base is trained, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from packtrain.config.base import Section


class AdapterConfig(Section):
    kind: Literal["lora", "dora", "qlora", "none"] = "lora"
    """`lora`; `dora`: also the size of each row of a weight is trained, which learns more at a small rank
    and is slower; `qlora`: LoRA on a base in 4 bits (NF4, needs `packtrain[qlora]`), a quarter of the
    memory; `none`: full fine-tuning, every weight of the base is trained, and the other keys here have
    no meaning."""
    rank: int = Field(default=16, ge=1, le=1024)
    """Rank r of the update B·A. Higher learns more, costs memory in proportion."""
    alpha: float = Field(default=32.0, gt=0.0)
    """The update is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / √rank instead (rsLoRA), so that a high rank learns as fast as a low one."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the adapter's inputs that are dropped while training."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers: all but the head, or names such as `[q_proj, v_proj]`."""
    layers: Literal["all"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = "all"
    """Which decoder layers: all, or their numbers from 0, such as `[14, 15]`."""
    modules_to_save: list[str] = Field(default=[])
    """Train the embeddings or the head whole, too: `[embed_tokens, lm_head]`, for new tokens or another
    language. Large, and servers such as vLLM refuse such an adapter."""
    loraplus_lr_ratio: float = Field(default=1.0, gt=0.0, le=1000.0)
    """The learning rate of B (and of DoRA's sizes), as a multiple of that of A (LoRA+). 16 is usual, with
    a lower `train.learning_rate`."""
