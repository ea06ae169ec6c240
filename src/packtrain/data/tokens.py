"""What is looked up in a tokenizer: its BOS, its special tokens in a text, the token at a character."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from packtrain.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def bos_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the tokenizer itself puts before a text, if it does."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    front = next((n for n in range(len(full)) if full[n : n + len(plain)] == plain), 0)
    if front > 1:
        raise ConfigError(f"model.source: its tokenizer puts {front} tokens before a text, not one BOS")
    return int(full[0]) if front else None


def any_of(tokens: set[str]) -> re.Pattern[str]:
    """Longest first: of two tokens that begin alike, the tokenizer takes the longer too."""
    ordered = sorted((re.escape(token) for token in tokens if token), key=lambda token: (-len(token), token))
    return re.compile("|".join(ordered) or r"(?!)")


def token_from(encoding: Any, char: int, text: str) -> int:
    """Index of the first token that begins at or after ``char``.

    A character of several byte-level tokens is found by its first; one that a normaliser dropped
    has none, and the next one decides.
    """
    for position in range(char, len(text)):
        token = encoding.char_to_token(position)
        if token is not None:
            begins_before = encoding.token_to_chars(token)[0] < char
            return int(token) + int(begins_before)
    return len(encoding.ids)
