"""A random Llama of any shape with another base's tokenizer: ``random_base.py BASE SHAPE TARGET``.

SHAPE is hidden,layers,heads,kv,vocab; the feed-forward part is 8/3 as wide as hidden, as in Llama.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def main() -> None:
    base, target = Path(sys.argv[1]), Path(sys.argv[3])
    hidden, layers, heads, key_value, vocab = (int(number) for number in sys.argv[2].split(","))
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=-(-hidden * 8 // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        vocab_size=max(vocab, len(tokenizer)),
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (base / name).exists():
            shutil.copy(base / name, target / name)


if __name__ == "__main__":
    main()
