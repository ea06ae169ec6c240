"""The whole run file, and what of it makes two runs the same training."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, model_validator

from packtrain.config.adapter import AdapterConfig
from packtrain.config.base import NAME, Section
from packtrain.config.data import DataConfig, wrong_names
from packtrain.config.evaluate import EvaluateConfig
from packtrain.config.model import ModelConfig
from packtrain.config.places import ClusterConfig, OutputConfig
from packtrain.config.report import ReportConfig
from packtrain.config.train import CheckpointConfig, TrainConfig


class RunConfig(Section):
    name: str = Field(pattern=NAME)
    """The run's name: a DNS label of at most 40 characters (a-z, 0-9 and -)."""
    model: ModelConfig
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    output: OutputConfig = OutputConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _supported(self) -> RunConfig:
        data = self.data
        if problem := wrong_names(data):
            raise ValueError(problem)
        if data.mixture and data.revision is not None:
            raise ValueError("data.revision: each item of data.train has its own; move it to its item")
        if self.adapter.kind == "qlora" and self.train.parallel == "fsdp":
            raise ValueError(
                "train.parallel: fsdp cannot shard a base in 4 bits (adapter.kind: qlora); use auto or data"
            )
        if data.streaming and data.mixture:
            raise ValueError(
                "data.streaming: rows that are streamed have no weights of their sources; name the sources "
                "alone in data.train (format, revision and limit of each are data's), or leave streaming out"
            )
        if data.streaming and self.train.max_steps is None:
            raise ValueError(
                "train.max_steps: is needed with data.streaming: true, where nobody knows how many steps an "
                "epoch has before it was read"
            )
        if data.streaming and self.train.epochs != TrainConfig.model_fields["epochs"].default:
            raise ValueError(
                "train.epochs: is not counted with data.streaming: true; leave it out: train.max_steps says "
                "how long, and the data begins again where it ends before"
            )
        if self.adapter.kind == "none":
            for key, field in AdapterConfig.model_fields.items():
                if key != "kind" and getattr(self.adapter, key) != field.default:
                    raise ValueError(
                        f"adapter.{key}: there is no adapter with adapter.kind: none (full fine-tuning); "
                        "remove this key"
                    )
        return self

    @property
    def full(self) -> bool:
        """Whether every weight of the base is trained, rather than an adapter."""
        return self.adapter.kind == "none"


#: What decides the trained weights. Speed, places, evaluation and the cluster do not.
IDENTITY: dict[str, frozenset[str]] = {
    "model": frozenset(ModelConfig.model_fields),
    "data": frozenset(DataConfig.model_fields),
    "adapter": frozenset(AdapterConfig.model_fields),
    "train": frozenset(TrainConfig.model_fields)
    - {"micro_batch", "parallel", "threads", "activation_checkpointing", "compile"},
}


def identity(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The part of a run file that affects training, as plain data.

    A local path counts by its name: the same run goes on where its folder was moved to, and the
    checkpoints' fingerprints tell of other content.
    """
    sections = {name: getattr(config, name).model_dump(include=set(keys)) for name, keys in IDENTITY.items()}
    if config.data.mixture:
        sections["data"]["train"] = [each.model_dump() for each in config.data.mixture]
    for section, key in (
        ("model", "source"),
        ("model", "chat_template"),
        ("data", "train"),
        ("data", "validation"),
    ):
        sections[section][key] = _by_name(sections[section][key])
    return sections


def _by_name(value: Any) -> Any:
    if isinstance(value, list):
        return [_by_name(each) for each in value]
    if isinstance(value, dict):
        return value | {"source": _by_name(value["source"])}
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) and value.startswith("/") else value


def config_hash(config: RunConfig) -> str:
    """SHA-256, in hex, over :func:`identity`. Same name and hash: the same run."""
    canonical = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines such as ``train.epochs: 1.0 -> 2.0`` for what differs between two plain configs."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines
