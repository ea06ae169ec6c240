"""Rows in the order in which they are read, epoch after epoch, and the windows that they are trained in.

A window is a stretch of the stream, tokenised whole and let go of after its last step. Within itself it
is packed, shuffled and cut into batches, as a function of the seed and its number alone; the files of an
epoch come in an order that the seed and the epoch give. So all that follows a position in the stream is
known by it, and a resumed run goes on from one.

The first window holds one batch, so that training begins at once, and each holds twice as much as the
one before, up to a limit: the larger, the better rows are mixed, and the fuller sequences are.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from packtrain.config import DataConfig
from packtrain.data.batches import Indices, epoch_order, near_equal_cuts
from packtrain.data.chat import ChatTemplate
from packtrain.data.prepare import bins_of
from packtrain.data.readers import Cursor
from packtrain.data.reading import Reader, nothing_left
from packtrain.data.report import Findings
from packtrain.data.rows import Item
from packtrain.data.shuffle import FILES, drawn_order
from packtrain.data.sources import Source
from packtrain.data.token_files import RowWriter
from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import DataError

#: Rows that are held as text at a time: few, for they may be long.
CHUNK = 64
#: A window holds so many batches at most, and so many tokens unless one batch is more.
MOST_BATCHES, MOST_TOKENS = 16, 1 << 22
#: For rows that are read again: they were counted the first time.
_ANY_NUMBER = 2**62


@dataclass(frozen=True)
class Position:
    """A place between two rows of the stream."""

    epoch: int = 0
    file: int = 0
    """Files of the epoch that are done."""
    taken: int = 0
    """Rows of the epoch that were passed."""
    rows: int = 0
    lines: int = 0
    bytes: int = 0
    """In the file: see :class:`~packtrain.data.readers.Cursor`."""


class RowStream:
    """All rows of ``source`` again and again, without those ``apart``: (file as listed, row in it) each.

    With a ``limit`` of rows files stay in the order in which they are listed, so that it means the same
    rows in every epoch.
    """

    def __init__(
        self, source: Source, seed: int, apart: frozenset[tuple[int, int]], start: Position = Position()
    ) -> None:
        self._source, self._seed, self._apart = source, seed, apart
        self._epoch, self._file, self._taken = start.epoch, start.file, start.taken
        self._cursor = Cursor(start.rows, start.lines, start.bytes)
        self._order = self._order_of(start.epoch)
        self._rows: Generator[Item, None, None] | None = None
        self._gave = bool(start.taken)

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def position(self) -> Position:
        at = self._cursor
        return Position(self._epoch, self._file, self._taken, at.rows, at.lines, at.bytes)

    def take(self, count: int) -> list[Item]:
        """The next rows: fewer, or none, where an epoch ends. Errors: those of the readers, and
        DataError for a source that has no rows for training."""
        items: list[Item] = []
        while len(items) < count:
            item = self._next()
            if item is None:
                if self._file == len(self._order) or self._ended:
                    self._end_epoch()
                    break
                continue
            self._taken += 1
            if (int(self._order[self._file]), self._cursor.rows - 1) not in self._apart:
                items.append(item)
                self._gave = True
        return items

    @property
    def epochs(self) -> float:
        """Epochs that were read, as far as the files' sizes, or the limit on rows, tell."""
        if self._source.limit is not None:
            return self._epoch + self._taken / self._source.limit
        sizes = [self._source.files[file].size for file in self._order]
        here = min(self._cursor.bytes, sizes[self._file])
        return float(self._epoch + (sum(sizes[: self._file]) + here) / max(1, sum(sizes)))

    @property
    def _ended(self) -> bool:
        limit = self._source.limit
        return limit is not None and self._taken >= limit

    def _next(self) -> Item | None:
        """None at the end of a file, which is then done with, and of an epoch."""
        if self._ended:
            return None
        if self._rows is None:
            self._rows = self._source.files[self._order[self._file]].rows(self._cursor)
        item = next(self._rows, None)
        if item is None:
            self._leave_file()
            self._file += 1
        return item

    def _leave_file(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._rows, self._cursor = None, Cursor()

    def _end_epoch(self) -> None:
        if not self._gave:
            raise DataError(
                f"{self._source.name}: no row is left for training",
                hint="data.validation takes all that there are; give it a smaller share",
            )
        self._leave_file()
        self._epoch, self._file, self._taken, self._gave = self._epoch + 1, 0, 0, False
        self._order = self._order_of(self._epoch)

    def _order_of(self, epoch: int) -> Indices:
        files = len(self._source.files)
        if self._source.limit is not None:
            return np.arange(files)
        return drawn_order(self._seed, FILES + epoch, files)


@dataclass(frozen=True)
class Window:
    """A stretch of the stream, ready to be trained on."""

    number: int
    """From 0."""
    start: Position
    end: Position
    epochs: tuple[float, float]
    """Epochs that were read at its start and at its end."""
    rows: TokenizedRows
    bins: list[Indices]
    """Row indices of each packed sequence."""
    findings: Findings
    """Of its rows that were read for the first time."""
    overlap: dict[int, str]
    """Validation rows that stand among its rows, and where the first of these stands."""
    batch_tokens: int
    seed: int

    @cached_property
    def steps(self) -> int:
        """Optimizer steps, of about ``batch_tokens`` each; at least 1."""
        return max(1, min(round(int(self.rows.lengths.sum()) / self.batch_tokens), len(self.bins)))

    def batch(self, step: int) -> Indices:
        """Bin ids of its step 0..steps-1."""
        cuts = self._cuts
        return self._order[cuts[step] : cuts[step + 1]]

    def rows_until(self, step: int) -> Indices:
        """The rows of its first ``step`` steps."""
        bins = self._order[: self._cuts[step]]
        return np.concatenate([np.empty(0, dtype=np.int64), *(self.bins[each] for each in bins)])

    def bins_until(self, step: int) -> int:
        return int(self._cuts[step])

    @cached_property
    def most_bins(self) -> int:
        """Bins of its largest batch."""
        return int(np.diff(self._cuts).max())

    @cached_property
    def _order(self) -> Indices:
        return epoch_order(self.seed, self.number, len(self.bins))

    @cached_property
    def _cuts(self) -> Indices:
        tokens = np.array([int(self.rows.lengths[rows].sum()) for rows in self.bins])
        return near_equal_cuts(tokens[self._order], self.steps)


def window_tokens(batch_tokens: int, number: int | None = None) -> int:
    """Tokens of window ``number`` (from 0); None: of the largest ones."""
    batches = MOST_BATCHES if number is None else min(2 ** min(number, 32), MOST_BATCHES)
    return max(batch_tokens, min(batches * batch_tokens, MOST_TOKENS))


@dataclass
class WindowMaker:
    """Makes one window after another."""

    stream: RowStream
    config: DataConfig
    """With a format that is not ``auto``."""
    template: ChatTemplate
    batch_tokens: int
    seed: int
    validation: dict[bytes, int] = field(default_factory=dict)
    """The validation rows by their digests."""
    found: Findings = field(default_factory=Findings)
    """All so far: the limit on bad rows is on all of them together."""

    def make(self, number: int) -> Window:
        """Errors: DataError (bad rows, nothing left), and the source's."""
        start, begun = self.stream.position, self.stream.epochs
        wanted = window_tokens(self.batch_tokens, number)
        first = Reader(self.config, self.template, before=self.found)
        lenient = self.config.model_copy(update={"max_bad_rows": _ANY_NUMBER})
        again = Reader(lenient, self.template)
        tokens = 0
        with RowWriter() as writer:
            while tokens < wanted:
                epoch = self.stream.position.epoch
                if writer.empty and epoch > start.epoch + 1:
                    found = self.found.plus(first.findings)
                    raise DataError(nothing_left(self.stream.name, found, self.config.max_length))
                chunk = self.stream.take(CHUNK)
                tokens += (again if epoch else first).take(chunk, self.config.format, writer)
            rows = writer.rows()
        self.found = self.found.plus(first.findings)
        return Window(
            number,
            start,
            self.stream.position,
            (begun, self.stream.epochs),
            rows,
            bins_of(rows, self.config),
            first.findings,
            self._overlap(rows),
            self.batch_tokens,
            self.seed,
        )

    def _overlap(self, rows: TokenizedRows) -> dict[int, str]:
        found: dict[int, str] = {}
        if self.validation:
            for index, digest in enumerate(rows.digests):
                held = self.validation.get(digest.tobytes())
                if held is not None:
                    found.setdefault(held, rows.places[index])
        return found
