"""A tokenizer in GGUF's words: tokens, merges, how text is cut, what ends a turn, the chat template.

llama.cpp knows ways of cutting text by name, and computes wrong tokens without an error where the name is
wrong. So the name follows from what ``tokenizer.json`` does, and what has no name is refused.
"""

from __future__ import annotations

import json
from typing import Any

from packtrain.errors import ConfigError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: How text is cut before merging -> llama.cpp's name for it (src/llama-vocab.cpp there).
NAMES: dict[tuple[str, ...], str] = {
    ("bytes, GPT-2's way",): "gpt-2",
    ("single digits", "bytes, GPT-2's way"): "smollm",
    (_WORDS + r"\p{N}{1,3}" + _REST, "bytes"): "llama-bpe",
    (_WORDS + r"\p{N}" + _REST, "bytes"): "qwen2",
}
#: Token types of GGUF.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def add_tokenizer(writer: Any, tokenizer: Any, vocab: int, end_of_turn: int | None) -> None:
    """Tell ``writer`` of the tokenizer, filled up to ``vocab`` tokens. Errors: :class:`ConfigError`."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = cutting(content)
    added = {token["id"]: token for token in content["added_tokens"]}
    known = {index: text for text, index in content["model"]["vocab"].items()}
    known |= {index: token["content"] for index, token in added.items()}
    if max(known) >= vocab:
        raise ConfigError(f"the tokenizer has {max(known) + 1} tokens, and the model knows {vocab}")

    def kind(index: int) -> int:
        if index in added:
            return CONTROL if added[index]["special"] else USER_DEFINED
        return NORMAL if index in known else UNUSED

    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([known.get(index, f"[PAD{index}]") for index in range(vocab)])
    writer.add_token_types([kind(index) for index in range(vocab)])
    writer.add_token_merges(merges)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    if end_of_turn is not None:
        writer.add_eot_token_id(end_of_turn)
    bos = tokenizer.bos_token_id
    writer.add_add_bos_token(
        bos is not None and tokenizer("", add_special_tokens=True)["input_ids"][:1] == [bos]
    )
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def cutting(content: dict[str, Any]) -> str:
    """llama.cpp's name of how a ``tokenizer.json`` cuts text. Errors: :class:`ConfigError`."""
    hint = "safetensors have the tokenizer as it is: --merged DIR"
    if content["model"]["type"] != "BPE" or not content["model"]["merges"]:
        raise ConfigError("its tokenizer is no byte-level BPE, and no other is written to GGUF", hint=hint)
    if (content.get("normalizer") or {}).get("type") not in (None, "NFC"):
        raise ConfigError(f"its tokenizer changes text first ({content['normalizer']['type']})", hint=hint)
    name = NAMES.get(tuple(_steps(content.get("pre_tokenizer"))))
    if name is None:
        raise ConfigError("its tokenizer cuts text in a way that llama.cpp has no known name for", hint=hint)
    return name


def _steps(pre: dict[str, Any] | None) -> list[str]:
    if pre is None:
        return []
    kind = pre["type"]
    if kind == "Sequence":
        return [step for each in pre["pretokenizers"] for step in _steps(each)]
    if kind == "Digits":
        return ["single digits" if pre["individual_digits"] else "digits"]
    if kind == "Split" and pre["behavior"] == "Isolated" and not pre["invert"]:
        return [pre["pattern"].get("Regex", "")]
    if kind == "ByteLevel" and not pre["add_prefix_space"]:
        return ["bytes, GPT-2's way" if pre["use_regex"] else "bytes"]
    return [kind]
