"""From a run file's `data` section to what training needs: tokens, masks, bins, and a report.

Rows are read, rendered and tokenised in chunks, so that only their tokens stay in memory. All gates
on the data are here: what is wrong is said before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from packtrain.config import DataConfig
from packtrain.data.chat import ChatTemplate, Encoded
from packtrain.data.formats import Conversation, detect_format, to_conversation
from packtrain.data.packing import Indices, one_row_a_bin, pack
from packtrain.data.report import Alike, DataReport, Findings, SplitReport, duplicates, overlap
from packtrain.data.rows import BadRow, Row
from packtrain.data.sources import Source, open_source
from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 1000
"""Rows that are held as text at a time."""
_VALIDATION_STREAM = 2**32
"""Second half of the key for the choice of validation rows: no epoch has this number."""


@dataclass(frozen=True)
class PreparedData:
    train: TokenizedRows
    validation: TokenizedRows | None
    train_bins: list[Indices]
    """Row indices of each packed sequence of training."""
    validation_bins: list[Indices]
    report: DataReport


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str | None,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> PreparedData:
    """Read, render, tokenise, cut, split and pack; ``on_progress`` gets the rows done so far.

    ``chat_template`` is a template's text, or None for the tokenizer's own. The same files, config,
    tokenizer and seed give the same arrays. Errors: DataError (bad rows, nothing left), ConfigError
    (no chat template, a source that is not there), and what the sources raise.
    """
    reader = _Reader(config, ChatTemplate(tokenizer, chat_template), on_progress)
    source = open_source(config.train, revision=config.revision, limit=config.limit)
    sources, notes = {"train": source.description}, []
    train, layout = reader.read(source)
    validation: TokenizedRows | None = None
    if isinstance(config.validation, float | int):
        chosen = validation_choice(len(train), float(config.validation), seed)
        if config.validation and not len(chosen):
            notes.append("there is no validation: one row cannot be shared between training and validation")
        if len(chosen):
            validation = train.take(chosen.tolist())
            train = train.take(np.setdiff1d(np.arange(len(train)), chosen).tolist())
    else:
        # A revision belongs to one repository; another one has no such commit.
        revision = config.revision if _repository(config.validation) == _repository(config.train) else None
        own = open_source(config.validation, revision=revision, limit=config.limit)
        sources["validation"] = own.description
        validation, _ = reader.read(own)
    train_bins = bins_of(train, config)
    validation_bins = [] if validation is None else bins_of(validation, config)
    report = DataReport(
        format=layout,
        max_length=config.max_length,
        sources=sources,
        findings=reader.findings,
        train=SplitReport.of(train, len(train_bins), config.max_length),
        validation=SplitReport.of(validation, len(validation_bins), config.max_length)
        if validation
        else None,
        duplicates=duplicates(train),
        overlap=overlap(validation, train) if validation else Alike(),
        notes=tuple(notes),
    )
    return PreparedData(train, validation, train_bins, validation_bins, report)


def bins_of(rows: TokenizedRows, config: DataConfig) -> list[Indices]:
    """The packed sequences as row indices; one row each with ``packing: false``."""
    return bins_of_lengths(rows.lengths, config)


def bins_of_lengths(lengths: npt.NDArray[np.int64], config: DataConfig) -> list[Indices]:
    """The same for rows of which only the ``lengths`` [rows] are known."""
    return pack(lengths, config.max_length) if config.packing else one_row_a_bin(len(lengths))


def read_rows(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, source: Source, chat_template: str | None
) -> TokenizedRows:
    """The rows of one source as :func:`prepare` reads them, and nothing more. Errors: its own."""
    return _Reader(config, ChatTemplate(tokenizer, chat_template), None).read(source)[0]


def validation_choice(rows: int, share: float, seed: int) -> Indices:
    """Ascending indices of the validation rows: at least one of two rows, and never all."""
    if not share or rows < 2:
        return np.empty(0, dtype=np.int64)
    count = min(max(1, round(share * rows)), rows - 1)
    key = np.array([seed, _VALIDATION_STREAM], dtype=np.uint64)
    return np.sort(np.random.Generator(np.random.Philox(key=key)).permutation(rows)[:count])


@dataclass
class _Reader:
    """Applies the run file's policies to the rows of one source after another."""

    config: DataConfig
    template: ChatTemplate
    on_progress: Callable[[int], None] | None
    findings: Findings = field(default_factory=Findings)

    def read(self, source: Source) -> tuple[TokenizedRows, str]:
        """The rows that are left, and their format."""
        before, kept = replace(self.findings), _Kept()
        layout: str = self.config.format
        for chunk in _chunks(source):
            if layout == "auto":
                layout = _format_of(chunk)
            for place, result in self._encoded(chunk, layout):
                self.findings.rows_read += 1
                encoded = self._accepted(place, result)
                if encoded is not None:
                    kept.add(place, encoded)
            kept.seal()
            if self.on_progress:
                self.on_progress(self.findings.rows_read)
        if not kept.places:
            raise DataError(_nothing_left(source, before, self.findings, self.config.max_length))
        return kept.rows(), layout

    def _encoded(self, chunk: list[Row | BadRow], layout: str) -> Iterator[tuple[str, Encoded | BadRow]]:
        """(place, tokens or what is wrong) in the order of the rows."""
        conversations: list[tuple[str, Conversation]] = []
        bad: dict[int, BadRow] = {}
        for index, item in enumerate(chunk):
            try:
                if isinstance(item, BadRow):
                    bad[index] = item
                else:
                    conversations.append((item.place, to_conversation(item, layout)))
            except BadRow as problem:
                bad[index] = problem
                if self.config.on_bad_row == "fail":
                    break  # later rows do not matter; earlier ones may be found bad when rendered
        encoded = iter(self.template.encode_batch(conversations))
        for index, item in enumerate(chunk[: len(bad) + len(conversations)]):
            yield item.place, bad[index] if index in bad else next(encoded)

    def _accepted(self, place: str, result: Encoded | BadRow) -> Encoded | None:
        """The row as it is trained on, or None when it is left out; DataError where that is not allowed."""
        if isinstance(result, Encoded) and not result.supervised[1:].any():
            result = BadRow(place, "", "has no token that the model would be trained on")
        if isinstance(result, BadRow):
            self._leave_out(result)
            return None
        limit, length = self.config.max_length, len(result.tokens)
        if length <= limit:
            return result
        if self.config.too_long == "fail":
            raise DataError(
                f"{place}: has {length:,} tokens, more than data.max_length {limit:,}",
                hint="raise data.max_length, or set data.too_long to truncate or skip",
            )
        if self.config.too_long == "skip":
            self.findings.too_long_rows += 1
            return None
        # The end of turn goes with the tail, so that no answer is taught to end where it was cut.
        cut = Encoded(result.tokens[:limit], result.supervised[:limit])
        if not cut.supervised[1:].any():
            self.findings.unsupervised_rows += 1
            return None
        self.findings.truncated_rows += 1
        self.findings.truncated_tokens += length - limit
        return cut

    def _leave_out(self, bad: BadRow) -> None:
        if self.config.on_bad_row == "fail":
            raise DataError(str(bad), hint="mend the row, or set data.on_bad_row: skip")
        self.findings.note_bad_row(str(bad))
        if self.findings.bad_rows > self.config.max_bad_rows:
            listed = "\n  ".join(self.findings.bad_row_list)
            raise DataError(
                f"more bad rows than data.max_bad_rows {self.config.max_bad_rows}, the first:\n  {listed}"
            )


@dataclass
class _Kept:
    """Rows so far, laid flat a chunk at a time: a small array a row costs more than its tokens."""

    places: list[str] = field(default_factory=list)
    chunk: list[Encoded] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    tokens: list[npt.NDArray[np.int32]] = field(default_factory=list)
    supervised: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, place: str, encoded: Encoded) -> None:
        self.places.append(place)
        self.lengths.append(len(encoded.tokens))
        self.chunk.append(encoded)

    def seal(self) -> None:
        if self.chunk:
            self.tokens.append(np.concatenate([row.tokens for row in self.chunk]))
            self.supervised.append(np.concatenate([row.supervised for row in self.chunk]))
            self.chunk = []

    def rows(self) -> TokenizedRows:
        return TokenizedRows(
            np.concatenate(self.tokens),
            np.concatenate(self.supervised),
            np.r_[0, np.cumsum(self.lengths)].astype(np.int64),
            self.places,
        )


def _chunks(source: Iterable[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    items = iter(source)
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _format_of(chunk: list[Row | BadRow]) -> str:
    """By the first row that can be read; a chunk without one tells nothing, and needs no format."""
    first = next((item for item in chunk if isinstance(item, Row)), None)
    if first is None:
        return "auto"
    try:
        return detect_format(first.fields)
    except DataError as error:
        raise DataError(f"{first.place}: {error}", hint=error.hint) from error


def _repository(source: str | list[str]) -> str | None:
    return source.partition(":")[0] if isinstance(source, str) else None


def _nothing_left(source: Source, before: Findings, after: Findings, max_length: int) -> str:
    name = source.source if isinstance(source.source, str) else ", ".join(source.source)
    read = after.rows_read - before.rows_read
    long = after.too_long_rows - before.too_long_rows
    cut = after.unsupervised_rows - before.unsupervised_rows
    return (
        f"{name}: no row is left of {read:,}: {after.bad_rows - before.bad_rows:,} bad, "
        f"{long:,} longer than data.max_length {max_length:,}, {cut:,} without an answer after the cut"
    )
