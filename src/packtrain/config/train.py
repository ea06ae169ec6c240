"""`train:` and `checkpoint:` how long, how fast, and what is kept of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from packtrain.config.base import Duration, Section, Steps


class TrainConfig(Section):
    epochs: float = Field(default=1.0, gt=0.0, le=10_000)
    """Passes over the data; a fraction ends in the middle of one."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps, whatever `epochs` says."""
    batch_tokens: int = Field(default=65_536, ge=16)
    """Tokens in an optimizer step, over all ranks and accumulation. An epoch is cut into equal
    batches of at most about this size."""
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Sequences of `max_length` in one forward pass. Changes speed and memory, not the result."""
    parallel: Literal["auto", "data", "fsdp"] = "auto"
    """How several processes share the base. `data`: each has all of it; `fsdp`: each has a shard
    (FSDP2). `auto`: `data` where the base takes less than half of a device. Not the result."""
    learning_rate: float = Field(default=2e-4, gt=0.0, le=10.0)
    """Peak learning rate of AdamW. The default is for adapters; full fine-tuning takes 1e-5 to 2e-5."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] | Annotated[int, Field(ge=0)] = 0.03
    """Rise of the learning rate from 0: a share of all steps, or (a whole number) steps."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay of AdamW, on matrices: never on norms and biases."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW: decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """AdamW: decay of the second moment."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm where theirs is larger."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Order of rows, initial adapter weights and dropout. The same seed repeats a CPU run to the bit."""
    activation_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass: less memory, about a third more time.
    `auto`: on for GPUs, off for CPU."""
    compile: bool = False
    """Let torch.compile make the decoder layers' programs: quicker steps on a GPU, after a minute at the
    start. Needs a C compiler where it trains, which packtrain's own image has not."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; recorded, and used again on resume. Default: what PyTorch chooses."""


class CheckpointConfig(Section):
    every: Duration | Steps = "5m"
    """Between two checkpoints: a duration (`30s`, `5m`, `1h`) or a whole number of steps."""
    keep: int = Field(default=2, ge=1)
    """How many checkpoints stay."""
    grace: Duration = "15s"
    """Time from SIGTERM to SIGKILL: what a stop has for saving."""
