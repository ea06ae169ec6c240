"""What the four formats share: the batch in tokens, schedules, optimizers, targets, data sources."""

from __future__ import annotations

import re
from typing import Any

from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.mixture import first_rows
from packtrain.runfile.elsewhere.source import Source, shown

#: All linear layers of Llama's shape but the head: what `all-linear` means for such a base.
ALL_LINEAR = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
#: peft's own choice for Llama's shape where a file names no targets.
PEFT_TARGETS = ["q_proj", "v_proj"]
ONLY_ANSWERS = "only the assistant's turns are learnt; the prompt is never in the loss"
LOGGING = "a run writes events.jsonl and a report; there is no other tracker"
SHARDING = "packtrain shares the work between processes itself (train.parallel, --processes)"
KERNELS = "packtrain chooses kernels and attention itself; the result is the same"
HUB = "packtrain does not upload to the hub; the adapter goes to output.uri"
RESUME = "the same command goes on from the last checkpoint by itself"
LOADING = "rows are read and tokenised as packtrain does; the result is the same"
TEMPLATE = "the tokenizer's own chat template is used; set model.chat_template where it has none"
TOKENS = "the tokenizer's own special tokens are used; nothing is padded"
QUANT8 = "there is no base in 8 bits; it stands in model.dtype (adapter.kind: qlora is 4 bits)"

_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine_with_warmup": "cosine",
}


def put_batch(
    carried: Carried, rows: int, accumulation: int, devices: int | None, max_length: int, packing: bool
) -> None:
    """``train.batch_tokens`` from rows a device, accumulation, devices and tokens a row."""
    if devices is None:
        devices = 1
        carried.leave("the number of devices", "the file does not say it; 1 was assumed (init --devices N)")
    tokens = max(16, rows * accumulation * devices * max_length)
    said = f"{rows} a device × {accumulation} accumulated × {devices} device(s) × {max_length} tokens"
    if not packing:
        said += "; rows are shorter: see above"
        carried.leave(
            f"a batch of {rows * accumulation * devices} rows",
            "a batch is counted in tokens, and rows of full length were assumed; for as many rows as there, "
            f"set train.batch_tokens to {rows * accumulation * devices} × the mean length that packtrain "
            "data --stats shows",
        )
    carried.put("train.batch_tokens", tokens, said)


def put_schedule(carried: Carried, source: Source, key: str, default: str) -> str:
    """``train.schedule``; returns the name there, for what depends on it."""
    name = source.text(key, default) or default
    schedule = _SCHEDULES.get(name)
    if schedule is None:
        carried.leave(
            f"{key}: {shown(key, name)}", "schedules are cosine, linear and constant; cosine was taken"
        )
    carried.put("train.schedule", schedule or "cosine", origin=key if source.has(key) else "")
    return name


def put_warmup(carried: Carried, source: Source, schedule: str, default: float = 0) -> None:
    """``train.warmup``: steps are counted first, then the share, as in transformers."""
    steps, ratio = source.number("warmup_steps", 0) or 0, source.number("warmup_ratio")
    key = "warmup_steps" if steps else "warmup_ratio" if ratio is not None else ""
    value: float = steps or (ratio if ratio is not None else default)
    if schedule == "constant":  # transformers' plain constant has no warm-up
        value = 0
    carried.put("train.warmup", int(value) if value >= 1 or value == 0 else float(value), origin=key)


def put_optimizer(carried: Carried, source: Source, key: str) -> None:
    name = source.text(key)
    if name is None:
        return
    if "adamw" not in name.lower():
        carried.leave(f"{key}: {shown(key, name)}", "the optimizer is AdamW; its learning rate may not fit")
    elif "bit" in name or "paged" in name:
        carried.leave(f"{key}: {shown(key, name)}", "AdamW's states are in float32, not in 8 bits or paged")


def put_targets(carried: Carried, names: list[str] | None, origin: str) -> None:
    """``adapter.targets``; all of Llama's linear layers are `all-linear`."""
    if not names:
        names = PEFT_TARGETS
        carried.leave("targets, of which none are named", "peft's choice for Llama was taken: q_proj, v_proj")
    if set(names) == ALL_LINEAR or names in (["all-linear"], ["all"]):
        carried.put("adapter.targets", "all-linear", origin=origin)
    elif "head" in " ".join(names):
        rest = [name for name in names if name != "lm_head"]
        carried.put(
            "adapter.targets",
            "all-linear" if set(rest) == ALL_LINEAR else rest or "all-linear",
            origin=origin,
        )
        carried.leave("LoRA on the head (lm_head)", "name it in adapter.modules_to_save to train it whole")
    else:
        carried.put("adapter.targets", names, origin=origin)


def put_output(carried: Carried, source: Source, key: str, value: str | None) -> None:
    if value is not None and "://" in value and not value.startswith("gs://"):
        carried.leave(f"{key}: {shown(key, value)}", "output.uri is a folder or gs://BUCKET/PREFIX")
    else:
        carried.put("output.uri", value, origin=key)


def hub_source(path: str, config: str | None = None, split: str | None = None) -> str:
    """``OWNER/NAME:CONFIG:SPLIT`` as data.train takes it; ``train`` is the split unless said."""
    if config:
        return f"{path}:{config}:{split or 'train'}"
    return path if split in {None, "train"} else f"{path}:{split}"


def whole_split(carried: Carried, where: str, split: Any) -> str:
    """A split's name without the part of it that ``train[:90%]`` or ``a+b`` mean.

    ``train[:1000]`` is a limit, which the caller carries over.
    """
    name, *rest = re.split(r"[\[+]", str(split or "train"), maxsplit=1)
    if rest and first_rows(split) is None:
        carried.leave(
            f"{where}: {split}", f"a part or a sum of splits cannot be named; all of {name} was taken"
        )
    return name


def put_validation(carried: Carried, source: Source, key: str) -> None:
    """A share of the rows; a number of rows cannot be said here. None there means none."""
    share = source.number(key, 0) or 0
    if share >= 1:
        carried.leave(
            f"{key}: {shown(key, share)}", "validation is a share of the rows, not a number; 0.02 was taken"
        )
        share = 0.02
    carried.put("data.validation", share, origin=key if source.has(key) else "")


def one_or_list(values: list[str]) -> Any:
    return values[0] if len(values) == 1 else values
