"""What ``auto`` becomes on this machine, and what identifies what training starts from."""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch

from packtrain.config import CheckpointConfig, EvaluateConfig, ModelConfig, RunConfig, TrainConfig, seconds
from packtrain.errors import ConfigError
from packtrain.model.folder import weights_dtype
from packtrain.plan.setup import MICRO_TOKENS
from packtrain.train.loop import Schedule

#: Above it a full fine-tuning, whose usual rates are 1e-5 to 2e-5, is likely to forget what it knew.
HIGH_FULL_RATE = 1e-4
#: One of them makes what torch.compile writes into a program.
COMPILERS = ("gcc", "clang", "cc")
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """Of the frozen base, or of computing with one that is trained: bfloat16 on GPUs that compute in it,
    float32 elsewhere."""
    if config.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def pick_micro_batch(config: TrainConfig, max_length: int, device: torch.device) -> int:
    """Sequences of ``max_length`` in one forward pass."""
    if config.micro_batch != "auto":
        return config.micro_batch
    return max(1, MICRO_TOKENS["cuda" if device.type == "cuda" else "cpu"] // max_length)


def use_activation_checkpointing(config: TrainConfig, device: torch.device) -> bool:
    if config.activation_checkpointing == "auto":
        return device.type == "cuda"
    return config.activation_checkpointing


def use_compile(config: RunConfig) -> bool:
    """Whether layers are compiled.

    Errors: :class:`ConfigError` where that cannot be.
    """
    if not config.train.compile:
        return False
    if config.full:
        raise ConfigError(
            "train.compile: not with adapter.kind: none, whose layers run as transformers has them",
            hint="leave train.compile out",
        )
    if config.adapter.dropout > 0:
        raise ConfigError(
            "train.compile: not with adapter.dropout, whose mask is another one in every step",
            hint="leave one of the two out",
        )
    if not any(map(shutil.which, COMPILERS)):
        raise ConfigError(
            "train.compile: torch.compile needs a C compiler, and this machine has none",
            hint="install gcc, or leave train.compile out",
        )
    return True


def make_schedule(
    evaluate: EvaluateConfig, checkpoint: CheckpointConfig, steps: int, *, has_validation: bool
) -> Schedule:
    """When to evaluate and to save. ``steps``: of the whole run."""
    every = evaluate.every if isinstance(evaluate.every, int) else max(1, round(evaluate.every * steps))
    by_steps = isinstance(checkpoint.every, int)
    return Schedule(
        steps=steps,
        evaluate_every=every if has_validation else None,
        checkpoint_steps=checkpoint.every if isinstance(checkpoint.every, int) else None,
        checkpoint_seconds=None if by_steps else seconds(str(checkpoint.every)),
    )


def base_fingerprint(folder: Path) -> str:
    """SHA-256 that tells one base from another without reading all of it.

    Over the configuration, and of each weights file its name, size, and 16 samples of 64 KiB: 16 GB
    would take a minute to read whole at every start.
    """
    digest = hashlib.sha256()
    paths = sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")])
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(size * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def standing_bytes(folder: Path, *, full: bool) -> int:
    """What each device would hold without sharding: the base's weights, as its files hold them.

    Of a full fine-tuning the weights, their gradients and AdamW's two moments, all in fp32.
    """
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return stored // weights_dtype(folder).itemsize * 16 if full else stored


def rate_warning(config: RunConfig) -> str | None:
    """A sentence about a learning rate that is meant for an adapter, None where there is nothing to say."""
    rate = config.train.learning_rate
    if not config.full or rate <= HIGH_FULL_RATE:
        return None
    return (
        f"train.learning_rate {rate:g} is high for full fine-tuning, where 1e-5 to 2e-5 is usual: "
        "the model may forget what it knew"
    )


def serving_warning(config: RunConfig) -> str | None:
    """A sentence about an adapter that some servers will not load, None where any will."""
    adapter = config.adapter
    if adapter.modules_to_save:
        what = f"adapter.modules_to_save {adapter.modules_to_save}: an adapter with whole modules"
    elif adapter.kind == "dora":
        what = "adapter.kind: dora: an adapter with sizes of its own"
    else:
        return None
    return f"{what} is refused by some servers, vLLM among them; merged into its base it is served everywhere"


def check_extras(config: RunConfig) -> None:
    """Before data is read: a library that this run alone needs. Errors: :class:`ConfigError`."""
    if config.adapter.kind == "qlora" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "adapter.kind: qlora needs bitsandbytes, which is not installed",
            hint="pip install 'packtrain[qlora]'",
        )
