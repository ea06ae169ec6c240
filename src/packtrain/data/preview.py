"""A row as the model sees it, for a person: the decoded tokens, what is supervised set apart."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = tuple[str, bool]
"""Text, and whether the model is trained on it."""

#: Control characters but tab and line feed: a terminal would obey them.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def parts(
    tokens: npt.NDArray[np.int32], supervised: npt.NDArray[np.bool_], tokenizer: PreTrainedTokenizerBase
) -> list[Part]:
    """The text of one row [T] in runs of supervised and other tokens, special tokens included."""
    bounds = [0, *(np.flatnonzero(supervised[1:] != supervised[:-1]) + 1).tolist(), len(tokens)]
    return [
        (
            tokenizer.decode(
                tokens[start:stop].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
            ),
            bool(supervised[start]),
        )
        for start, stop in pairwise(bounds)
    ]


def visible(text: str) -> str:
    """``text`` with its control characters written out, such as ``\\x1b``."""
    return text.translate(_CONTROLS)


def marked(row: list[Part]) -> str:
    """Without colour: ⟦…⟧ around what is supervised."""
    return "".join(f"⟦{visible(text)}⟧" if supervised else visible(text) for text, supervised in row)
