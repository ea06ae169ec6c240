"""What an adapter does to each weight of its base, by the formulas of LoRA, rsLoRA and DoRA.

W' = W + s·B·A, with s = alpha / r, or alpha / √r for rsLoRA (https://arxiv.org/abs/2312.03732); for
DoRA each output's row is then scaled to the length m that was learnt for it (https://arxiv.org/abs/2402.09353).
What an adapter holds whole (``modules_to_save``) stands in place of the base's. In float32, and some
rows at a time, so that no weight need be held whole.

Shapes: W [out, in], A [r, in], B [out, r], m [out].
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from packtrain.artifacts.adapter_files import CONFIG, WEIGHTS
from packtrain.errors import ConfigError, StorageError
from packtrain.model.shards import Shards

PREFIX = "base_model.model."
KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|magnitude_vector(\.weight)?)")
#: Settings of peft that change what an adapter computes, and that are not computed here.
UNKNOWN = (
    *("lora_bias", "layer_replication", "trainable_token_indices", "target_parameters", "use_qalora"),
    *("alora_invocation_tokens", "arrow_config", "use_bdlora", "velora_config", "monteclora_config"),
)


@dataclass(frozen=True)
class Update:
    """One linear layer's, as keys of the adapter's file."""

    a: str
    b: str
    scaling: float
    magnitude: str | None
    transposed: bool
    """The base stores [in, out], as GPT-2 does."""


@dataclass
class Deltas:
    """An adapter's file, by the modules' paths in the base."""

    folder: Path
    shards: Shards
    updates: dict[str, Update] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    """``<module path>.weight`` or ``.bias`` -> the key of what stands in its place."""
    copies: dict[str, str] = field(default_factory=dict)
    """``<module path>.weight`` -> the key of the base's own: peft saves it of a head with an update."""
    keeps_tied: bool = False
    """The head follows the embeddings that were trained."""

    @classmethod
    def of(cls, folder: Path) -> Deltas:
        """Read the adapter in ``folder``; its weights stay on disk.

        Raises ConfigError for an adapter of a kind that cannot be merged, StorageError for damage.
        """
        config = _settings(folder / CONFIG)
        shards = Shards([_checked(folder / WEIGHTS)])
        made = cls(folder, shards, keeps_tied=bool(config.get("ensure_weight_tying")))
        parts: dict[str, dict[str, str]] = {}
        for key in shards.tensors:
            name = key.removeprefix(PREFIX)
            found = KEY.fullmatch(name)
            if found:
                parts.setdefault(found["module"], {})[found["part"].removesuffix(".weight")] = key
            elif ".base_layer." in name:
                made.copies[name.replace(".base_layer.", ".")] = key
            elif _is_saved(name, config.get("modules_to_save")):
                made.replaced[name] = key
            else:
                raise ConfigError(f"{folder}: {key} is nothing that can be merged into a base")
        for module, keys in parts.items():
            made.updates[module] = _update(folder, module, keys, config, shards)
        if not made.updates and not made.replaced:
            raise ConfigError(f"{folder / WEIGHTS}: holds no adapter's weights")
        return made

    def applied(self, module: str, weight: Tensor, first: int = 0) -> Tensor:
        """``weight`` with its update: rows of W from ``first`` on, float32; all of them where transposed."""
        update = self.updates[module]
        a, b = self.shards.read(update.a).float(), self.shards.read(update.b).float()
        if update.transposed:
            whole: Tensor = self._scaled(update, weight.T + update.scaling * (b @ a), 0).T
            return whole
        rows = b[first : first + len(weight)]
        return self._scaled(update, torch.addmm(weight, rows, a, alpha=update.scaling), first)

    def _scaled(self, update: Update, weight: Tensor, first: int) -> Tensor:
        if update.magnitude is None:
            return weight
        wanted = self.shards.read(update.magnitude).float().flatten()[first : first + len(weight)]
        scaled: Tensor = weight * (wanted / torch.linalg.vector_norm(weight, dim=1))[:, None]
        return scaled


def _settings(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON as peft writes it ({error})") from error
    hint = "let peft merge it: PeftModel.merge_and_unload"
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{path}: peft_type {config.get('peft_type')} cannot be merged here", hint=hint)
    if config.get("bias", "none") != "none":
        raise ConfigError(f"{path}: bias: {config['bias']} cannot be merged here", hint=hint)
    for key in UNKNOWN:
        if config.get(key):
            raise ConfigError(f"{path}: {key} cannot be merged here", hint=hint)
    return config


def _checked(path: Path) -> Path:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            return path
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def _is_saved(name: str, modules: list[str] | None) -> bool:
    module = name.rpartition(".")[0]
    return any(module == each or module.endswith(f".{each}") for each in modules or [])


def _update(
    folder: Path, module: str, keys: dict[str, str], config: dict[str, Any], shards: Shards
) -> Update:
    lacking = {"A", "B", *(["magnitude_vector"] if config.get("use_dora") else [])} - keys.keys()
    if lacking:
        raise StorageError(f"{folder / WEIGHTS}: {module} has no lora_{min(lacking)}")
    rank = shards.tensors[keys["A"]].shape[0]
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return Update(
        a=keys["A"],
        b=keys["B"],
        scaling=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
        magnitude=keys.get("magnitude_vector"),
        transposed=bool(config.get("fan_in_fan_out")),
    )


def _of_pattern(pattern: dict[str, float] | None, module: str, default: float) -> float:
    """As peft matches them (``get_pattern_key``): an end of the path, which may be a regular expression."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
