"""Which trainer a file was written for, and whether it is supervised fine-tuning at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from packtrain.errors import ConfigError
from packtrain.runfile.document import Document

TORCHTUNE, AXOLOTL, LLAMA_FACTORY, TRL = "torchtune", "Axolotl", "LLaMA-Factory", "TRL"
ALL = (TORCHTUNE, AXOLOTL, LLAMA_FACTORY, TRL)

#: Keys that only other methods of TRL take; its file does not name the method.
_OTHER_METHODS = {
    "beta": "DPO, KTO, ORPO or GRPO",
    "max_prompt_length": "DPO, KTO, ORPO or GRPO",
    "ref_model_name_or_path": "DPO",
    "desirable_weight": "KTO",
    "undesirable_weight": "KTO",
    "num_generations": "GRPO",
    "reward_funcs": "GRPO",
    "reward_model_name_or_path": "GRPO or RLOO",
    "reward_model_path": "PPO",
    "center_rewards_coefficient": "a reward model",
    "rloo_k": "RLOO",
}
_STAGES = {"pt": "pre-training", "rm": "a reward model", "dpo": "DPO", "kto": "KTO", "ppo": "PPO"}
#: Keys of Axolotl beside `rl` that mean another kind of training.
_AXOLOTL_OTHERS = {
    "pretraining_dataset": "pre-training",
    "reward_model": "a reward model",
    "process_reward_model": "a reward model",
    "num_labels": "a classifier",
    "diffusion": "a diffusion model",
    "is_multimodal": "images",
    "processor_type": "images or sound",
}
#: Parts of torchtune's component names -> what they train.
_COMPONENTS = {
    "rlhf": "DPO or PPO",
    "DPO": "DPO",
    "preference_dataset": "preferences",
    "stack_exchange_paired": "preferences",
    "hh_rlhf": "preferences",
    "multimodal": "images",
    "_vision": "images",
    "classifier": "a classifier",
    "knowledge_distillation": "a student of another model",
    "kd_losses": "a student of another model",
    "ForwardKL": "a student of another model",
}


def detect(document: Document) -> str:
    """One of :data:`ALL`. Errors: ConfigError for a file of none of them, or of two."""
    data = document.data
    if isinstance(data.get("model"), dict) and "source" in data["model"]:
        raise ConfigError(f"{document.path}: is a packtrain run file already")
    signs = {
        TORCHTUNE: any(True for _ in components(data)),
        AXOLOTL: "base_model" in data,
        LLAMA_FACTORY: "stage" in data or "finetuning_type" in data,
        TRL: "model_name_or_path" in data
        and ("dataset_name" in data or "datasets" in data)
        and not {"stage", "finetuning_type"} & data.keys(),
    }
    found = [name for name, is_one in signs.items() if is_one]
    if not found:
        raise ConfigError(
            f"{document.path}: is not a config of torchtune, Axolotl, LLaMA-Factory or TRL",
            hint="they are known by `_component_`, `base_model`, `stage` or `finetuning_type`, and "
            "`model_name_or_path` with `dataset_name`",
        )
    if len(found) > 1:
        raise ConfigError(
            f"{document.path}: could be a config of {' or of '.join(found)}",
            hint="keep the keys of one of them",
        )
    return found[0]


def components(data: Any) -> Iterator[str]:
    """All values of ``_component_``, wherever they stand."""
    if isinstance(data, dict):
        if isinstance(data.get("_component_"), str):
            yield data["_component_"]
        for value in data.values():
            yield from components(value)
    elif isinstance(data, list):
        for value in data:
            yield from components(value)


def refuse_other_methods(kind: str, document: Document) -> None:
    """ConfigError with one sentence for what is not supervised fine-tuning of text."""
    found = {
        TORCHTUNE: _torchtune,
        AXOLOTL: _axolotl,
        LLAMA_FACTORY: _llama_factory,
        TRL: _trl,
    }[kind](document.data)
    if found:
        key, what = found
        raise ConfigError(
            f"{document.path}:{document.line((key,))}: {key}: this is a config of {kind} for {what}; "
            "packtrain does supervised fine-tuning of language models alone"
        )


def _torchtune(data: dict[str, Any]) -> tuple[str, str] | None:
    for key in ("teacher_model", "ref_checkpointer", "reward_and_value_model"):
        if key in data:
            return key, "a student of another model" if key == "teacher_model" else "DPO or PPO"
    for key, value in data.items():
        for name in components(value):
            if what := next((what for part, what in _COMPONENTS.items() if part in name), None):
                return key, what
    if "optimizer" not in data or "dataset" not in data:
        return next(iter(data)), "something else than training"
    return None


def _axolotl(data: dict[str, Any]) -> tuple[str, str] | None:
    if data.get("rl"):
        return "rl", str(data["rl"]).upper()
    return next(((key, what) for key, what in _AXOLOTL_OTHERS.items() if data.get(key)), None)


def _llama_factory(data: dict[str, Any]) -> tuple[str, str] | None:
    stage, kind = str(data.get("stage", "sft")), str(data.get("finetuning_type", "lora"))
    image = next((key for key in data if key.startswith(("image_", "video_", "freeze_vision"))), None)
    if image:
        return image, "images or video"
    if stage != "sft":
        return "stage", _STAGES.get(stage, stage)
    if kind not in {"lora", "full"}:
        return "finetuning_type", f"`{kind}` fine-tuning"
    if data.get("do_train") is False or ("do_predict" in data and not data.get("do_train")):
        return "stage" if "stage" in data else "finetuning_type", "something else than training"
    return None


def _trl(data: dict[str, Any]) -> tuple[str, str] | None:
    if data.get("loss_type") not in {None, "nll", "chunked_nll", "dft"}:
        return "loss_type", "DPO or another method"
    return next(((key, what) for key, what in _OTHER_METHODS.items() if key in data), None)
