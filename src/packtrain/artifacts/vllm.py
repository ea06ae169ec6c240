"""Would vLLM serve this adapter? And if not, why: it says so only when the server starts.

vLLM loads peft's files as they are, so that there is nothing to write. What it refuses stands in its
vllm/lora/peft_helper.py (features, rank) and vllm/lora/utils.py (names of the weights).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packtrain.artifacts.adapter_files import CONFIG, WEIGHTS
from packtrain.artifacts.vllm_ranks import RANKS, least_rank
from packtrain.errors import ConfigError
from packtrain.model.shards import Shards

#: Linear layers that vLLM's models of Llama's shape can give an update, and the fused ones of Phi.
SUPPORTED = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"}
    | {"lm_head", "embed_tokens"}
)


def refusals(folder: Path, max_rank: int | None = None) -> list[str]:
    """A sentence for each reason why vLLM would not serve the adapter in ``folder``; [] where it would.

    ``max_rank``: the server's ``--max-lora-rank``, None for one that is chosen to fit.
    Raises ConfigError for a file that peft did not write.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / CONFIG}: cannot be read ({error})") from error
    reasons = []
    if config.get("peft_type") != "LORA":
        reasons.append(f"peft_type is {config.get('peft_type')}: vLLM serves LoRA only")
    if config.get("use_dora"):
        reasons.append("use_dora: vLLM has no DoRA")
    if config.get("modules_to_save"):
        named = ", ".join(config["modules_to_save"])
        reasons.append(f"modules_to_save ({named}): vLLM takes no whole modules out of an adapter")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        reasons.append("bias: vLLM takes no trained biases")
    reasons += _of_rank(config, max_rank)
    return reasons + _of_weights(
        folder, Shards([folder / WEIGHTS]).tensors, config.get("modules_to_save") or []
    )


def _of_rank(config: dict[str, Any], max_rank: int | None) -> list[str]:
    highest = max([int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values())])
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return ["rank_pattern or alpha_pattern: vLLM scales all modules alike"]
    if max_rank is not None and highest > max_rank:
        return [f"rank {highest} is over --max-lora-rank {max_rank}"]
    if least_rank(highest) is None:
        return [f"rank {highest} is over {RANKS[-1]}, the highest --max-lora-rank"]
    return []


def _of_weights(folder: Path, names: Sequence[str] | dict[str, Any], saved: list[str]) -> list[str]:
    modules = set()
    for name in names:
        module = name.rpartition(".lora_")[0]
        leaf = module.rpartition(".")[2]
        if module and leaf not in SUPPORTED and leaf not in saved:
            modules.add(leaf)
    return [f"{leaf}: vLLM gives this module no update" for leaf in sorted(modules)]


def to_serve(folder: Path) -> str:
    """The option that the server needs for this adapter."""
    rank = least_rank(int(json.loads((folder / CONFIG).read_bytes())["r"]))
    assert rank is not None
    return f"--enable-lora --max-lora-rank {rank}"
