"""``training_args.bin``: what was done, in the form that people expect beside an adapter.

It is a pickled transformers ``TrainingArguments``, as the Trainer of transformers leaves it. A pickle
can run code when it is loaded, so packtrain writes this file and never loads one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingFacts:
    """What was done, in units of the run file."""

    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup_steps: int
    epochs: float
    """Passes over the data that were made, a fraction included."""
    steps: int
    """Optimizer steps that were made."""
    micro_batch: int
    """Sequences in one forward pass."""
    accumulation: int
    """Forward passes in an optimizer step (the largest number: batches are counted in tokens)."""
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    max_grad_norm: float
    seed: int
    dtype: Literal["float32", "bfloat16", "float16"]
    activation_checkpointing: bool
    device: str
    """``cpu`` or ``cuda``."""


def training_args(facts: TrainingFacts) -> bytes:
    """A pickled ``transformers.TrainingArguments`` that says what ``facts`` say.

    No path, token or host name of this machine goes into it.
    """
    import torch
    from transformers import TrainingArguments

    constant = "constant_with_warmup" if facts.warmup_steps else "constant"
    arguments = TrainingArguments(
        output_dir="adapter",
        learning_rate=facts.learning_rate,
        lr_scheduler_type=constant if facts.schedule == "constant" else facts.schedule,
        warmup_steps=facts.warmup_steps,
        num_train_epochs=facts.epochs,
        max_steps=facts.steps,
        per_device_train_batch_size=facts.micro_batch,
        gradient_accumulation_steps=facts.accumulation,
        optim="adamw_torch",
        weight_decay=facts.weight_decay,
        adam_beta1=facts.beta1,
        adam_beta2=facts.beta2,
        adam_epsilon=facts.epsilon,
        max_grad_norm=facts.max_grad_norm,
        seed=facts.seed,
        activation_checkpointing=facts.activation_checkpointing,
        use_cpu=facts.device == "cpu",
        report_to=[],
    )
    # Set afterwards: the constructor refuses a precision that the machine at hand does not have.
    arguments.bf16 = facts.dtype == "bfloat16"
    arguments.fp16 = facts.dtype == "float16"
    buffer = io.BytesIO()
    torch.save(arguments, buffer)
    return buffer.getvalue()
