"""What has to be known of data before it is streamed: its files, its format, and the validation rows.

Validation is a source of its own, which is read whole; or a share of the rows that come first, as the
files are listed: of the first :data:`FIRST_ROWS`, chosen by the seed as it is without streaming, and at
most :data:`MOST_VALIDATION`. These rows, and no others, are left out of training wherever they come up.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from packtrain.config import DataConfig
from packtrain.data.chat import ChatTemplate
from packtrain.data.columns import Columns, Unseen
from packtrain.data.mixture import source_list
from packtrain.data.packing import Indices
from packtrain.data.pinning import validation_revision
from packtrain.data.prepare import PreparedData, bins_of, validation_choice, weights_note
from packtrain.data.reading import Reader, format_of, nothing_left
from packtrain.data.report import Alike, DataReport, Findings, SplitReport, duplicates, overlap
from packtrain.data.rows import Item, Row
from packtrain.data.sources import Source, open_source
from packtrain.data.stream import CHUNK, Position, RowStream, WindowMaker
from packtrain.data.stream_mark import Mark
from packtrain.data.system import check_system
from packtrain.data.token_files import RowWriter
from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Of these rows a share is for validation; and at most so many of them.
FIRST_ROWS, MOST_VALIDATION = 10_000, 256
#: Rows that ``packtrain data`` looks at.
SAMPLE = 5000
#: Rows in which one is looked for that shows the format, and the columns that the run file names.
LOOKED_AT = 1000


@dataclass(frozen=True)
class Streamed:
    """Data that is streamed, opened: what of it does not depend on how far it was read."""

    source: Source
    config: DataConfig
    """With the format that ``auto`` became."""
    template: ChatTemplate
    seed: int
    apart: frozenset[tuple[int, int]]
    """Rows of ``source`` that are for validation: (file as listed, row in it)."""
    validation: TokenizedRows | None
    findings: Findings
    """Of the validation rows."""
    sources: dict[str, dict[str, Any]]
    notes: tuple[str, ...] = ()
    """What of the first rows a person should know, a sentence each."""

    def maker(self, batch_tokens: int, start: Position, found: Findings) -> WindowMaker:
        """``found``: all up to ``start``, without that of the validation rows."""
        stream = RowStream(self.source, self.seed, self.apart, start)
        held: dict[bytes, int] = {}
        if self.validation is not None:
            held = {digest.tobytes(): row for row, digest in enumerate(self.validation.digests)}
        return WindowMaker(
            stream, self.config, self.template, batch_tokens, self.seed, held, self.findings.plus(found)
        )

    def prepared(self, train: TokenizedRows, bins: list[Indices], report: DataReport) -> PreparedData:
        """Some of the rows, as the rest of the house takes them."""
        validation = self.validation
        held = [] if validation is None else bins_of(validation, self.config)
        parts, revisions = (np.arange(len(train)),), (self.source.description["revision"],)
        return PreparedData(train, validation, bins, held, report, parts=parts, revisions=revisions)

    @property
    def files(self) -> list[list[str]]:
        """Name and identity of each file: what tells that the source changed."""
        return [[file.shown, file.identity] for file in self.source.files]

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the files' identities in their order, wherever they lie."""
        identities = [identity for _, identity in self.files]
        return hashlib.sha256(json.dumps([identities, self.config.format]).encode()).hexdigest()

    def check_same(self, before: list[list[str]]) -> None:
        """Errors: ConfigError where a file is another than when the run was stopped."""
        now = self.files
        if [identity for _, identity in before] == [identity for _, identity in now]:
            return
        hint = "put the data back as it was, or start another run under this name with --new"
        if len(before) != len(now):
            raise ConfigError(
                f"data.train: was {len(before)} files when the run was stopped, and is {len(now)} now",
                hint=hint,
            )
        changed = next(name for (name, new), (_, old) in zip(now, before, strict=True) if new != old)
        raise ConfigError(f"{changed}: its content is another than when the run was stopped", hint=hint)


def open_streamed(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None, seed: int
) -> Streamed:
    """Find the files, and read what is for validation.

    Errors: those of :func:`~packtrain.data.prepare.prepare`.
    """
    template = ChatTemplate(tokenizer, chat_template)
    source = open_source(
        source_list(config.train), revision=config.revision, limit=config.limit, in_place=True
    )
    sources = {"train": source.description}
    wanted = config
    layout, notes = _look(source, config)
    check_system(template, config.system, layout)
    config = config.model_copy(update={"format": layout})
    apart: frozenset[tuple[int, int]] = frozenset()
    validation, found = None, Findings()
    if isinstance(config.validation, float | int):
        apart = _apart(source, float(config.validation), seed)
        if apart:
            validation, found = _chosen(source, apart, config, template)
    else:
        revision = validation_revision(config, config.validation)
        own = open_source(config.validation, revision=revision, limit=config.limit, in_place=True)
        sources["validation"] = own.description
        reader = Reader(wanted, template)  # its format may be another
        with RowWriter() as writer:
            reader.read(own, writer)
            validation, found = writer.rows(), reader.findings
    validation = None if validation is None else validation.unweighted()
    return Streamed(source, config, template, seed, apart, validation, found, sources, notes)


def _look(source: Source, config: DataConfig) -> tuple[str, tuple[str, ...]]:
    """The format, by the first row that can be read, and what is to be said of the first rows."""
    unseen, weighted = Unseen(Columns.of(config)), False
    layout: str = config.format
    bad = None
    for item in islice(source, LOOKED_AT):
        if not isinstance(item, Row):
            bad = bad or item
            continue
        if layout == "auto":
            layout = format_of([item], unseen.columns)
        unseen.look([item])
        weighted = weighted or config.weight_column in item.fields
    if layout == "auto":
        raise DataError(f"{bad}", hint="none of the first rows shows data.format; mend them, or name it")
    notes = [f"{problem} (of the first {LOOKED_AT:,} rows)" for problem in unseen.problems()]
    if weighted:
        notes += weights_note(config)
    return layout, tuple(notes)


def _apart(source: Source, share: float, seed: int) -> frozenset[tuple[int, int]]:
    """The validation rows: (file, row in it)."""
    if not share:
        return frozenset()
    most = min(FIRST_ROWS, math.ceil(MOST_VALIDATION / share))
    places = [place for place, _ in islice(_numbered(source), most)]
    return frozenset(places[row] for row in validation_choice(len(places), share, seed)[:MOST_VALIDATION])


def _numbered(source: Source) -> Iterator[tuple[tuple[int, int], Item]]:
    rows = (
        ((file, row), item) for file, each in enumerate(source.files) for row, item in enumerate(each.rows())
    )
    return islice(rows, source.limit)


def _chosen(
    source: Source, apart: frozenset[tuple[int, int]], config: DataConfig, template: ChatTemplate
) -> tuple[TokenizedRows, Findings]:
    last, items = max(apart), []
    for place, item in _numbered(source):
        if place in apart:
            items.append(item)
        if place == last:
            break
    reader = Reader(config, template)
    with RowWriter() as writer:
        reader.take(items, config.format, writer)
        if writer.empty:
            raise DataError(
                "data.validation: " + nothing_left(source.name, reader.findings, config.max_length),
                hint="give data.validation a source of its own, or a larger share",
            )
        return writer.rows(), reader.findings


def report_of(streamed: Streamed, mark: Mark) -> DataReport:
    """Of a run that has come to ``mark``."""
    config, validation = streamed.config, streamed.validation
    bins = [] if validation is None else bins_of(validation, config)
    return DataReport(
        format=config.format,
        max_length=config.max_length,
        sources=streamed.sources,
        findings=streamed.findings.plus(mark.found),
        train=SplitReport(
            rows=mark.rows,
            tokens=mark.tokens,
            supervised_tokens=mark.targets,
            lengths=mark.lengths,
            bins=mark.bins,
            packing_efficiency=round(mark.tokens / max(1, mark.bins * config.max_length), 4),
            fingerprint=mark.digest,
        ),
        validation=SplitReport.of(validation, len(bins), config.max_length) if validation else None,
        duplicates=Alike(),
        overlap=Alike(len(mark.overlap), tuple(_overlap(validation, mark))),
        scope="data.streaming: rows and tokens are those that were trained on, once for each time; lengths "
        "are of the first rows; the fingerprint is over all rows that were read, in their order; duplicates "
        "in training were not looked for",
        notes=streamed.notes,
    )


def _overlap(validation: TokenizedRows | None, mark: Mark) -> Iterator[str]:
    for row, place in zip(mark.overlap, mark.overlap_places, strict=False):
        assert validation is not None
        yield f"{validation.places[row]} is {place}"


def sample(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str | None,
    seed: int,
    rows: int = SAMPLE,
) -> PreparedData:
    """The first rows of what is streamed, prepared as a whole, and the run's own validation rows.

    Errors: those of :func:`open_streamed`, and DataError for what is wrong with these rows.
    """
    first = config.model_copy(update={"limit": min(rows, config.limit or rows)})
    streamed = open_streamed(config, tokenizer, chat_template=chat_template, seed=seed)
    train, findings = _first(streamed, first)
    bins = bins_of(train, config)
    report = replace(
        report_of(streamed, Mark()),
        findings=streamed.findings.plus(findings),
        train=SplitReport.of(train, len(bins), config.max_length),
        duplicates=duplicates(train),
        overlap=overlap(streamed.validation, train) if streamed.validation else Alike(),
        scope=f"data.streaming: the first {len(train):,} rows that would be trained on, as the files are "
        "listed; the others were not read",
    )
    return streamed.prepared(train, bins, report)


def _first(streamed: Streamed, config: DataConfig) -> tuple[TokenizedRows, Findings]:
    limited = replace(streamed.source, limit=config.limit)
    reader = Reader(streamed.config, streamed.template, before=streamed.findings)
    stream = RowStream(limited, streamed.seed, streamed.apart)
    with RowWriter() as writer:
        while stream.position.epoch == 0:
            reader.take(stream.take(CHUNK), streamed.config.format, writer)
        if writer.empty:
            raise DataError(nothing_left(limited.name, reader.findings, config.max_length))
        return writer.rows(), reader.findings
