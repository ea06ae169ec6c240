"""From a run file's `data` section to what training needs: tokens, masks, bins, and a report.

Tokens come from the cache where they are kept from an earlier start. What is wrong with the data is
said here, before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from packtrain.config import DataConfig
from packtrain.data.cache import entry_key, remembered, usable_folder
from packtrain.data.chat import ChatTemplate
from packtrain.data.mixture import EpochBins, Mixture, Part, joined, open_parts
from packtrain.data.packing import Indices, one_row_a_bin, pack
from packtrain.data.pinning import validation_revision
from packtrain.data.reading import Reader, check_limit
from packtrain.data.report import (
    Alike,
    DataReport,
    Findings,
    PartReport,
    SplitReport,
    duplicates,
    overlap,
)
from packtrain.data.shuffle import VALIDATION, drawn_order
from packtrain.data.sources import Source, open_source
from packtrain.data.token_files import Entry, RowWriter
from packtrain.data.tokenized import TokenizedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedData:
    train: TokenizedRows
    validation: TokenizedRows | None
    train_bins: list[Indices]
    """Row indices of each packed sequence of training; of the first epoch, where they differ."""
    validation_bins: list[Indices]
    report: DataReport
    epochs: EpochBins | None = None
    """Of every epoch, where a mixture's weights make them differ."""
    parts: tuple[Indices, ...] = ()
    """The training rows of each source of a mixture; of all sources together, where it is none."""
    revisions: tuple[str | None, ...] = (None,)
    """What :attr:`DataConfig.revisions` have become: commits, where the sources are of the hub."""


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str | None,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
    keep: bool = True,
) -> PreparedData:
    """Read, render, tokenise, cut, split and pack; ``on_progress`` gets the rows done so far.

    ``chat_template`` is a template's text, or None for the tokenizer's own. The same files, config,
    tokenizer and seed give the same arrays. ``keep``: in the cache, where they are looked for first;
    else all is done in memory. Errors: DataError (bad rows, nothing left), ConfigError
    (no chat template, a source that is not there), and what the sources raise.
    """
    desk = _Desk(config, ChatTemplate(tokenizer, chat_template), on_progress, keep)
    parts = open_parts(config)
    sources = {part.key: _description(part, config) for part in parts}
    entries = [desk.rows(part.source, part.config) for part in parts]
    train = joined([entry.rows for entry in entries])
    which = np.repeat(np.arange(len(parts)), [len(entry.rows) for entry in entries])
    validation: TokenizedRows | None = None
    held = np.empty(0, dtype=np.int64)
    if isinstance(config.validation, float | int):
        # Before the weights: no copy of a row that is held out is trained on.
        chosen = validation_choice(len(train), float(config.validation), seed)
        if config.validation and not len(chosen):
            desk.notes.append(
                "there is no validation: one row cannot be shared between training and validation"
            )
        if len(chosen):
            validation = train.take(chosen)
            rest = np.setdiff1d(np.arange(len(train)), chosen)
            train, held, which = train.take(rest), which[chosen], which[rest]
    else:
        own = open_source(
            config.validation, revision=validation_revision(config, config.validation), limit=config.limit
        )
        sources["validation"] = own.description
        validation = desk.rows(own, config).rows
    # A loss that is comparable, whatever weights the rows have.
    validation = None if validation is None else validation.unweighted()
    if train.weights is not None:
        desk.notes += weights_note(config)
    mixture = Mixture(
        tuple(np.flatnonzero(which == number) for number in range(len(parts))),
        tuple(part.weight for part in parts),
        seed,
    )
    epochs = None
    seen, train_bins = train, bins_of(train, config)
    if config.mixture:
        every = EpochBins(mixture, train.lengths, lambda lengths: bins_of_lengths(lengths, config))
        seen, train_bins = train.take(mixture.epoch(0)), every.of(0)
        epochs = None if mixture.alike else every
    validation_bins = [] if validation is None else bins_of(validation, config)
    report = DataReport(
        format=", ".join(dict.fromkeys(entry.format for entry in entries)),
        max_length=config.max_length,
        sources=sources,
        findings=desk.findings,
        train=replace(
            SplitReport.of(seen, len(train_bins), config.max_length), fingerprint=train.fingerprint
        ),
        validation=SplitReport.of(validation, len(validation_bins), config.max_length)
        if validation
        else None,
        duplicates=duplicates(train),
        overlap=overlap(validation, train) if validation else Alike(),
        notes=tuple(desk.notes),
        mixture=tuple(
            PartReport.of(
                part.source.name,
                part.weight,
                train.take(rows),
                count,
                int((held == number).sum()),
                entry.findings.thoughtless_turns,
            )
            for number, (part, entry, rows, count) in enumerate(
                zip(parts, entries, mixture.rows, mixture.counts(), strict=True)
            )
        )
        if config.mixture
        else (),
    )
    revisions = tuple(part.revision for part in parts)
    return PreparedData(
        train, validation, train_bins, validation_bins, report, epochs, mixture.rows, revisions
    )


def _description(part: Part, config: DataConfig) -> dict[str, Any]:
    weight = {"weight": part.weight} if config.mixture else {}
    return part.source.description | weight


def weights_note(config: DataConfig) -> list[str]:
    """A sentence for rows that have weights by a column that nobody named."""
    if "weight_column" in config.model_fields_set:
        return []
    column = config.weight_column
    return [f"rows count as their column {column} says (data.weight_column: null ignores it)"]


def bins_of(rows: TokenizedRows, config: DataConfig) -> list[Indices]:
    """The packed sequences as row indices; one row each with ``packing: false``."""
    return bins_of_lengths(rows.lengths, config)


def bins_of_lengths(lengths: npt.NDArray[np.int64], config: DataConfig) -> list[Indices]:
    """The same for rows of which only the ``lengths`` [rows] are known."""
    return pack(lengths, config.max_length) if config.packing else one_row_a_bin(len(lengths))


def read_rows(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, source: Source, chat_template: str | None
) -> TokenizedRows:
    """The rows of one source, or of a part of it, as :func:`prepare` reads them. Errors: its own."""
    with RowWriter() as writer:
        Reader(config, ChatTemplate(tokenizer, chat_template), whole=False).read(source, writer)
        return writer.rows()


def validation_choice(rows: int, share: float, seed: int) -> Indices:
    """Ascending indices of the validation rows: at least one of two rows, and never all."""
    if not share or rows < 2:
        return np.empty(0, dtype=np.int64)
    count = min(max(1, round(share * rows)), rows - 1)
    return np.sort(drawn_order(seed, VALIDATION, rows)[:count])


@dataclass
class _Desk:
    """Gets the rows of one source after another, from the cache or from the source."""

    config: DataConfig
    template: ChatTemplate
    on_progress: Callable[[int], None] | None
    keep: bool
    findings: Findings = field(default_factory=Findings)
    """Of all sources so far."""
    notes: list[str] = field(default_factory=list)

    def rows(self, source: Source, config: DataConfig) -> Entry:
        """The rows that are left, read by the settings of ``config``."""
        entry = self._kept(source, config) if self.keep else self._in_memory(source, config)
        self.findings = self.findings.plus(entry.findings)
        check_limit(self.findings, self.config)  # each source may be within it, and both not
        return entry

    def _reader(self, config: DataConfig) -> Reader:
        return Reader(config, self.template, self.on_progress, before=self.findings)

    def _in_memory(self, source: Source, config: DataConfig) -> Entry:
        reader = self._reader(config)
        with RowWriter() as writer:
            layout = reader.read(source, writer)
            return Entry(writer.rows(), layout, reader.findings)

    def _kept(self, source: Source, config: DataConfig) -> Entry:
        folder, why_not = usable_folder()
        if folder is None:
            self.notes.append(
                f"tokens are not kept for the next start: {why_not} (PACKTRAIN_CACHE names a folder)"
            )
            return self._in_memory(source, config)

        def make(place: Path) -> None:
            reader = self._reader(config)
            with RowWriter(place) as writer:
                layout = reader.read(source, writer)
                writer.finish(layout, reader.findings)

        entry, note = remembered(folder, entry_key(config, source, self.template.identity), make)
        if note:
            self.notes.append(note)
        if self.on_progress:
            self.on_progress(self.findings.rows_read + entry.findings.rows_read)
        return entry
