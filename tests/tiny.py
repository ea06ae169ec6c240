"""Tiny random models in whole Hugging Face folders, made on the spot: real files, no download.

The tokenizer knows the 256 bytes and some special tokens, so any text goes through it and back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import AutoConfig

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

#: Special tokens of all kinds, from id 256 on, so that every template works with every kind.
SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<unk>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>"),
)
#: Tokens of a kind: bos, eos, template. The tokenizer adds bos by itself where it is not None.
CHATML_TOKENS = (None, "<|im_end|>", CHATML)
GEMMA_TOKENS = ("<bos>", "<end_of_turn>", GEMMA)
TOKENS: dict[str, tuple[str | None, str, str]] = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "gemma": GEMMA_TOKENS,
    "gemma3": GEMMA_TOKENS,
}
#: model_type of a kind, and what differs from the shapes in :func:`_shape`.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            }
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 32, "head_dim": 16}),
    "gemma": (
        "gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32},
    ),
    "gemma3": ("gemma3_text", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}),
    "phi3": ("phi3", {}),
    "smollm3": ("smollm3", {}),
}


def tokenizer(bos: str | None) -> Tokenizer:
    """A byte-level BPE tokenizer without merges: ids 0..255 are bytes, the specials follow."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1", special_tokens=[(bos, token_id(bos))]
        )
    return made


def token_id(special: str) -> int:
    """Id of one of :data:`SPECIALS`."""
    return 256 + SPECIALS.index(special)


def _shape(vocab: int, *, tied: bool) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": tied,
    }


def make_tiny_base(
    folder: Path,
    kind: str = "llama",
    *,
    tied: bool = False,
    chat_template: str | None = "auto",
    pad_is_eos: bool = False,
    vocab: int = 384,
    seed: int = 0,
    dtype: str = "float32",
    shape: dict[str, Any] | None = None,
) -> Path:
    """Write a whole model folder; the same arguments give the same bytes.

    ``chat_template``: ``auto`` is the kind's own (ChatML, Llama 3 or Gemma), None leaves it out.
    ``shape`` overrides entries of the model's config, such as ``num_hidden_layers``.
    """
    assert vocab >= 256 + len(SPECIALS)
    folder.mkdir(parents=True, exist_ok=True)
    bos, eos, template = TOKENS.get(kind, CHATML_TOKENS)
    pad = eos if pad_is_eos else "<|pad|>"
    ids = {
        "bos_token_id": token_id(bos) if bos else None,
        "eos_token_id": token_id(eos),
        "pad_token_id": token_id(pad),
    }
    model_type, extra = KINDS[kind]
    config = AutoConfig.for_model(model_type, **(_shape(vocab, tied=tied) | extra | ids | (shape or {})))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)

    tokenizer(bos).save(str(folder / "tokenizer.json"))
    names = {"eos_token": eos, "pad_token": pad, "unk_token": "<unk>"} | ({"bos_token": bos} if bos else {})
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(token_id(token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for token in SPECIALS
        },
        **names,
    }
    if chat_template is not None:
        settings["chat_template"] = template if chat_template == "auto" else chat_template
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", names)
    return folder


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
