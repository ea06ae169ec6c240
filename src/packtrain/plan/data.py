"""What the data means for a run: its steps, tokens and packed sequences, counted by the run's own code.

Large data is sampled: rows at equal distances are tokenised, and stand for the others. How far off that
may be is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from packtrain.config import RunConfig
from packtrain.data.batches import BatchPlan
from packtrain.data.mixture import joined, open_parts
from packtrain.data.prepare import bins_of_lengths, read_rows, validation_choice
from packtrain.data.rows import Item
from packtrain.data.sources import Source, open_source
from packtrain.data.stream import window_tokens
from packtrain.data.streaming import sample
from packtrain.data.tokenized import TokenizedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Rows that are tokenised, up to twice as many; of more, a sample.
MOST_ROWS = 2000
#: Two standard errors.
ERRORS = 2.0


@dataclass(frozen=True)
class DataStats:
    rows: int
    """Of training."""
    tokens: int
    """Of an epoch."""
    supervised: float
    """Share of the tokens that have a loss."""
    bins: int
    """Packed sequences of an epoch."""
    packing_efficiency: float
    """Tokens over bins times ``data.max_length``."""
    documents: float
    """Rows in a bin, on average."""
    steps: int
    steps_per_epoch: int
    validation_tokens: int
    sampled_rows: int
    """Tokenised; as many as there are where none was left out."""
    error: float
    """Of the number of tokens, as a share: two standard errors; 0 where all rows were read."""
    sample: TokenizedRows = field(repr=False, compare=False)
    """The rows that were tokenised."""
    streamed: bool = False
    """The rows that come first stand for all: an epoch here is a window, and how many there are nobody
    knows."""

    @property
    def read_first(self) -> int:
        """Rows that are tokenised before the first step: of streamed data those of one batch."""
        return math.ceil(self.rows / self.steps_per_epoch) if self.streamed else self.rows

    @property
    def bins_a_step(self) -> float:
        return self.bins / self.steps_per_epoch

    @property
    def tokens_a_step(self) -> float:
        return self.tokens / self.steps_per_epoch

    @property
    def trained_tokens(self) -> int:
        """Of the whole run."""
        return round(self.tokens_a_step * self.steps)


def statistics(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    *,
    most_rows: int = MOST_ROWS,
) -> DataStats:
    """Count the run's data. Errors: those of :func:`packtrain.data.prepare.prepare`."""
    section, parts, validation = config.data, [], 0.0
    if section.streaming:
        return _streamed(config, tokenizer, chat_template, most_rows)
    opened = open_parts(section)
    for part in opened:
        sample, total, read = _sampled(part.source, -(-most_rows // len(opened)))
        rows = read_rows(part.config, tokenizer, sample, chat_template)
        parts.append(_Part(rows, round(len(rows) / read * total), part.weight, whole=read == total))
    if isinstance(section.validation, float | int):
        kept = sum(part.total for part in parts)
        held = len(validation_choice(kept, float(section.validation), config.train.seed))
        validation = sum(held * part.total / kept * float(part.rows.lengths.mean()) for part in parts)
        parts = [replace(part, total=part.total - round(held * part.total / kept)) for part in parts]
    else:
        own, own_total, own_read = _sampled(open_source(section.validation, limit=section.limit), most_rows)
        found = read_rows(section, tokenizer, own, chat_template)
        validation = float(found.lengths.sum()) / own_read * own_total
    return _of_parts(config, parts, round(validation))


def _streamed(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, chat_template: str | None, most_rows: int
) -> DataStats:
    """The first rows stand for all; sequences are packed in windows of the largest size."""
    assert config.train.max_steps is not None
    found = sample(
        config.data, tokenizer, chat_template=chat_template, seed=config.train.seed, rows=most_rows
    )
    rows = found.train
    total = max(len(rows), math.ceil(window_tokens(config.train.batch_tokens) / float(rows.lengths.mean())))
    validation = found.validation
    held = int(validation.lengths.sum()) if validation is not None else 0
    longer = config.train.model_copy(update={"epochs": float(config.train.max_steps)})
    stats = of_rows(config.model_copy(update={"train": longer}), rows, total, held, whole=False)
    return replace(stats, streamed=True)


def of_rows(
    config: RunConfig, rows: TokenizedRows, total: int, validation_tokens: int, *, whole: bool
) -> DataStats:
    """``total`` rows of training like ``rows``."""
    return _of_parts(config, [_Part(rows, total, 1.0, whole=whole)], validation_tokens)


@dataclass(frozen=True)
class _Part:
    """A source: ``total`` rows of training like ``rows``; an epoch sees each ``weight`` times."""

    rows: TokenizedRows
    total: int
    weight: float
    whole: bool

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Of an epoch's rows."""
        return np.resize(self.rows.lengths, max(1, round(self.total * self.weight)))

    @property
    def error(self) -> float:
        """A standard error of an epoch's tokens."""
        whole = self.whole and self.weight == int(self.weight)
        return (
            0.0 if whole else len(self.lengths) * float(self.rows.lengths.std()) / math.sqrt(len(self.rows))
        )


def _of_parts(config: RunConfig, parts: list[_Part], validation_tokens: int) -> DataStats:
    section = config.data
    lengths = np.concatenate([part.lengths for part in parts])
    bins = bins_of_lengths(lengths, section)
    tokens = int(lengths.sum())
    plan = BatchPlan(
        bin_tokens=np.array([lengths[each].sum() for each in bins]),
        batch_tokens=config.train.batch_tokens,
        epochs=config.train.epochs,
        seed=config.train.seed,
        max_steps=config.train.max_steps,
    )
    supervised = sum(
        float(part.lengths.sum()) * float(part.rows.targets.sum()) / float(part.rows.lengths.sum())
        for part in parts
    )
    rows = joined([part.rows for part in parts])
    return DataStats(
        rows=sum(part.total for part in parts),
        tokens=tokens,
        supervised=supervised / tokens,
        bins=len(bins),
        packing_efficiency=tokens / (len(bins) * section.max_length),
        documents=len(lengths) / len(bins),
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        validation_tokens=validation_tokens,
        sampled_rows=len(rows),
        error=ERRORS * math.hypot(*(part.error for part in parts)) / max(1, tokens),
        sample=rows,
    )


def _sampled(source: Source, most: int) -> tuple[Source, int, int]:
    """The source, or rows of it at equal distances; how many it has, and how many of them are read.

    Whenever twice as many as wanted are held, every second one is let go: one pass, in bounded memory.
    """
    kept: list[Item] = []
    stride, total = 1, 0
    for total, item in enumerate(source, 1):
        if (total - 1) % stride == 0:
            kept.append(item)
            if len(kept) > 2 * most:
                kept, stride = kept[::2], 2 * stride
    return _Rows.like(source, tuple(kept)), total, len(kept)


@dataclass(frozen=True)
class _Rows(Source):
    """Rows that were read before."""

    kept: tuple[Item, ...] = ()

    @classmethod
    def like(cls, source: Source, kept: tuple[Item, ...]) -> _Rows:
        return cls(source.source, source.files, kept=kept)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.kept)
