"""Rows to tokens by the run file's policies: what is bad, what is too long, and what is left.

Rows are read, rendered and tokenised in chunks, so that only their tokens are kept, and these may go
to files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from packtrain.config import DataConfig
from packtrain.data.chat import ChatTemplate, Encoded
from packtrain.data.formats import Conversation, detect_format, to_conversation
from packtrain.data.report import Findings
from packtrain.data.rows import BadRow, Row
from packtrain.data.sources import Source
from packtrain.data.token_files import RowWriter
from packtrain.errors import DataError

CHUNK = 1000
"""Rows that are held as text at a time."""


@dataclass
class Reader:
    """Applies the policies to the rows of one source."""

    config: DataConfig
    template: ChatTemplate
    on_progress: Callable[[int], None] | None = None
    """Gets the rows read so far, those of ``before`` included."""
    before: Findings = field(default_factory=Findings)
    """What other sources of the run had: the limit on bad rows is on all of them."""
    findings: Findings = field(default_factory=Findings)
    """What this one has."""

    def read(self, source: Source, into: RowWriter) -> str:
        """Hand the rows that are left to ``into``; their format. Errors: DataError, and the source's."""
        layout: str = self.config.format
        for chunk in _chunks(source):
            if layout == "auto":
                layout = format_of(chunk)
            self.take(chunk, layout, into)
            if self.on_progress:
                self.on_progress(self.before.rows_read + self.findings.rows_read)
        if into.empty:
            raise DataError(nothing_left(source.name, self.findings, self.config.max_length))
        return layout

    def take(self, chunk: list[Row | BadRow], layout: str, into: RowWriter) -> int:
        """The same for some rows of a known format; the tokens that ``into`` got. Errors: DataError."""
        tokens = 0
        for place, result in self._encoded(chunk, layout):
            self.findings.rows_read += 1
            encoded = self._accepted(place, result)
            if encoded is not None:
                into.add(place, encoded)
                tokens += len(encoded.tokens)
        into.seal()
        return tokens

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
        check_limit(self.before.plus(self.findings), self.config)


def check_limit(findings: Findings, config: DataConfig) -> None:
    """``data.max_bad_rows``, on all that was found so far. Errors: DataError."""
    if findings.bad_rows > config.max_bad_rows:
        listed = "\n  ".join(findings.bad_row_list)
        raise DataError(f"more bad rows than data.max_bad_rows {config.max_bad_rows}, the first:\n  {listed}")


def _chunks(source: Iterable[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    items = iter(source)
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def format_of(chunk: list[Row | BadRow]) -> str:
    """By the first row that can be read; a chunk without one tells nothing, and needs no format."""
    first = next((item for item in chunk if isinstance(item, Row)), None)
    if first is None:
        return "auto"
    try:
        return detect_format(first.fields)
    except DataError as error:
        raise DataError(f"{first.place}: {error}", hint=error.hint) from error


def nothing_left(name: str, found: Findings, max_length: int) -> str:
    """The sentence for a source of which every row was left out."""
    return (
        f"{name}: no row is left of {found.rows_read:,}: {found.bad_rows:,} bad, "
        f"{found.too_long_rows:,} longer than data.max_length {max_length:,}, "
        f"{found.unsupervised_rows:,} without an answer after the cut"
    )
