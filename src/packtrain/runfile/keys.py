"""All keys of a run file in dotted form, and the one that somebody meant.

Derived from the types in :mod:`packtrain.config`, so that no list has to be kept beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import get_origin

from pydantic.fields import FieldInfo

from packtrain.config import RunConfig, Section


def _walk(model: type[Section], prefix: str = "") -> Iterable[tuple[str, FieldInfo, bool]]:
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        yield prefix + name, field, nested
        if nested:
            yield from _walk(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]


#: Dotted key -> field, for every key that has a value, such as ``train.epochs``.
FIELDS: dict[str, FieldInfo] = {key: field for key, field, nested in _walk(RunConfig) if not nested}
#: Dotted names of the sections, such as ``train`` and ``evaluate.fail_if``.
SECTIONS: frozenset[str] = frozenset(key for key, _, nested in _walk(RunConfig) if nested)
#: Keys whose value is a map from few names, such as ``data.columns``.
MAPS: frozenset[str] = frozenset(key for key, field in FIELDS.items() if get_origin(field.annotation) is dict)

#: What other trainers call our keys; no spelling distance leads there.
OTHER_NAMES = {
    "lr": "train.learning_rate",
    "batch_size": "train.batch_tokens",
    "per_device_train_batch_size": "train.batch_tokens",
    "gradient_accumulation_steps": "train.batch_tokens",
    "num_train_epochs": "train.epochs",
    "warmup_ratio": "train.warmup",
    "lr_scheduler_type": "train.schedule",
    "gradient_checkpointing": "train.activation_checkpointing",
    "max_seq_length": "data.max_length",
    "sequence_len": "data.max_length",
    "dataset": "data.train",
    "column_map": "data.columns",
    "field_messages": "data.columns",
    "system_prompt": "data.system",
    "default_system": "data.system",
    "base_model": "model.source",
    "model_name_or_path": "model.source",
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "target_modules": "adapter.targets",
    "output_dir": "output.uri",
    "save_steps": "checkpoint.every",
}


def nearest_key(unknown: str) -> str | None:
    """The known key that ``unknown`` (dotted) most likely means: by its last part, then by all of it."""
    last = unknown.rpartition(".")[2].lower().replace("-", "_")
    if last in OTHER_NAMES:
        return OTHER_NAMES[last]

    def likeness(key: str) -> tuple[float, float]:
        return (
            SequenceMatcher(None, last, key.rpartition(".")[2]).ratio(),
            SequenceMatcher(None, unknown, key).ratio(),
        )

    best = max([*FIELDS, *sorted(SECTIONS)], key=likeness)
    return best if likeness(best)[0] >= 0.65 else None


def nearest_name(unknown: str, names: Iterable[str]) -> str | None:
    """The most similar of ``names``, or None where none is similar."""
    best = max(names, key=lambda name: SequenceMatcher(None, unknown, name).ratio(), default=None)
    return best if best is not None and SequenceMatcher(None, unknown, best).ratio() >= 0.6 else None
