"""A model's loss, perplexity and token accuracy on rows, and its answers beside those in the rows.

On a plain transformers model, with or without peft's layers, and a row a sequence: none of what makes
training fast takes part, so that it also says whether that was right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import DivergedError

Progress = Callable[[int, int], None]

#: Tokens of a forward pass, and numbers of the logits that it gives: 512 MB of float32.
TOKENS, LOGITS = 4096, 2**27


@dataclass(frozen=True)
class Measured:
    loss: float
    """Nats a supervised token."""
    accuracy: float
    """Share of the supervised tokens that are the likeliest one to the model."""
    tokens: int
    """Supervised."""

    @property
    def perplexity(self) -> float:
        """e to the loss; infinity where that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def to_json(self) -> dict[str, Any]:
        finite = self.perplexity if math.isfinite(self.perplexity) else None
        return asdict(self) | {"perplexity": finite}


@torch.inference_mode()
def measure(model: Any, rows: TokenizedRows, on_progress: Progress = lambda done, total: None) -> Measured:
    """Over all supervised tokens of ``rows``, of which there must be some. Raises DivergedError for NaN."""
    loss, right, tokens, done = 0.0, 0, 0, 0
    for batch in _batches(rows):
        ids_BT, targets_BT = _padded(rows, batch)
        keep_K = (targets_BT >= 0).any(0).nonzero().flatten()
        if len(keep_K):
            for part_K in keep_K.split(
                max(1, LOGITS // (len(batch) * model.config.get_text_config().vocab_size))
            ):
                logits_BKV = _logits(model, ids_BT, rows.lengths[batch], part_K)
                targets_BK = targets_BT[:, part_K].to(logits_BKV.device)
                valid = targets_BK >= 0
                loss += float(
                    F.cross_entropy(logits_BKV[valid].float(), targets_BK[valid], reduction="sum").double()
                )
                right += int((logits_BKV.argmax(-1) == targets_BK)[valid].sum())
                tokens += int(valid.sum())
        done += len(batch)
        on_progress(done, len(rows))
    if math.isnan(loss):
        raise DivergedError("the model gives NaN logits on the data")
    return Measured(loss / tokens, right / tokens, tokens)


def _batches(rows: TokenizedRows) -> Iterator[list[int]]:
    """Row numbers, the longest rows first, so that memory runs out at once or never."""
    order = np.argsort(-rows.lengths, kind="stable").tolist()
    while order:
        count = max(1, TOKENS // max(1, int(rows.lengths[order[0]])))
        yield order[:count]
        order = order[count:]


def _padded(rows: TokenizedRows, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token ids [B, T], zeros behind each row; and at each position its target, or -1 for none."""
    longest = int(rows.lengths[batch].max())
    ids, targets = np.zeros((len(batch), longest), dtype=np.int64), np.full((len(batch), longest), -1)
    for place, index in enumerate(batch):
        tokens, supervised = rows.row(index)
        ids[place, : len(tokens)] = tokens
        targets[place, : len(tokens) - 1] = np.where(supervised[1:], tokens[1:], -1)
    return torch.from_numpy(ids), torch.from_numpy(targets)


def _logits(model: Any, ids_BT: Tensor, lengths: Any, keep_K: Tensor) -> Tensor:
    mask_BT = torch.arange(ids_BT.shape[1])[None] < torch.from_numpy(np.asarray(lengths))[:, None]
    logits: Tensor = model(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.long().to(model.device),
        use_cache=False,
        logits_to_keep=keep_K.to(model.device),
    ).logits
    return logits


def last_turns(rows: TokenizedRows, count: int, end: frozenset[int]) -> list[tuple[list[int], list[int]]]:
    """Of the first ``count`` rows that have one: the tokens before the last answer, and that answer's.

    ``end``: tokens that end an answer and are no part of it. Rows whose answer begins them are passed over.
    """
    found: list[tuple[list[int], list[int]]] = []
    for index in range(len(rows)):
        if len(found) == count:
            break
        tokens, supervised = rows.row(index)
        places = np.flatnonzero(supervised)
        if not len(places):
            continue
        gaps = np.flatnonzero(np.diff(places) > 1)
        first = int(places[gaps[-1] + 1]) if len(gaps) else int(places[0])
        answer = [int(token) for token in tokens[first : int(places[-1]) + 1]]
        while answer and answer[-1] in end:
            answer.pop()
        if first:
            found.append(([int(token) for token in tokens[:first]], answer))
    return found
