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
from packtrain.data.prepare import bins_of_lengths, read_rows, validation_choice
from packtrain.data.rows import Item
from packtrain.data.sources import Source, open_source
from packtrain.data.stream import MOST_BATCHES, MOST_TOKENS
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
    section = config.data
    if section.streaming:
        return _streamed(config, tokenizer, chat_template, most_rows)
    source = open_source(section.train, revision=section.revision, limit=section.limit)
    sample, total, read = _sampled(source, most_rows)
    rows = read_rows(section, tokenizer, sample, chat_template)
    kept = round(len(rows) / read * total)
    validation = 0.0
    if isinstance(section.validation, float | int):
        held = len(validation_choice(kept, float(section.validation), config.train.seed))
        validation = held * float(rows.lengths.mean())
        kept -= held
    else:
        own, own_total, own_read = _sampled(open_source(section.validation, limit=section.limit), most_rows)
        found = read_rows(section, tokenizer, own, chat_template)
        validation = float(found.lengths.sum()) / own_read * own_total
    return of_rows(config, rows, kept, round(validation), whole=read == total)


def _streamed(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, chat_template: str | None, most_rows: int
) -> DataStats:
    """The first rows stand for all; sequences are packed in windows of the largest size."""
    assert config.train.max_steps is not None
    found = sample(
        config.data, tokenizer, chat_template=chat_template, seed=config.train.seed, rows=most_rows
    )
    rows = found.train
    window = max(config.train.batch_tokens, min(MOST_BATCHES * config.train.batch_tokens, MOST_TOKENS))
    total = max(len(rows), math.ceil(window / float(rows.lengths.mean())))
    validation = found.validation
    held = int(validation.lengths.sum()) if validation is not None else 0
    longer = config.train.model_copy(update={"epochs": float(config.train.max_steps)})
    stats = of_rows(config.model_copy(update={"train": longer}), rows, total, held, whole=False)
    return replace(stats, streamed=True)


def of_rows(
    config: RunConfig, rows: TokenizedRows, total: int, validation_tokens: int, *, whole: bool
) -> DataStats:
    """``total`` rows of training like ``rows``."""
    section = config.data
    lengths: npt.NDArray[np.int64] = np.resize(rows.lengths, total)
    bins = bins_of_lengths(lengths, section)
    tokens = int(lengths.sum())
    plan = BatchPlan(
        bin_tokens=np.array([lengths[each].sum() for each in bins]),
        batch_tokens=config.train.batch_tokens,
        epochs=config.train.epochs,
        seed=config.train.seed,
        max_steps=config.train.max_steps,
    )
    spread = float(rows.lengths.std()) / max(1e-9, float(rows.lengths.mean()))
    return DataStats(
        rows=total,
        tokens=tokens,
        supervised=float(rows.targets.sum()) / len(rows.tokens),
        bins=len(bins),
        packing_efficiency=tokens / (len(bins) * section.max_length),
        documents=total / len(bins),
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        validation_tokens=validation_tokens,
        sampled_rows=len(rows),
        error=0.0 if whole else ERRORS * spread / math.sqrt(len(rows)),
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
