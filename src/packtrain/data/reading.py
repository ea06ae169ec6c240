"""Rows to tokens by the run file's policies: what is bad, what is too long, and what is left.

Rows are read, rendered and tokenised in chunks, so that only their tokens are kept, and these may go
to files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from packtrain.config import DataConfig
from packtrain.data.chat import ChatTemplate, Encoded
from packtrain.data.columns import Columns, Unseen
from packtrain.data.formats import Conversation
from packtrain.data.messages import Problem
from packtrain.data.reasoning import placed
from packtrain.data.report import Findings
from packtrain.data.row_weights import row_weight
from packtrain.data.rows import BadRow, Row
from packtrain.data.sources import Source
from packtrain.data.system import check_system, system_turns, with_system
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
    whole: bool = True
    """All rows of the sources are read, so that a column that none has is a column that is not there."""
    columns: Columns = field(init=False)

    def __post_init__(self) -> None:
        self.columns = Columns.of(self.config)

    def read(self, source: Source, into: RowWriter) -> str:
        """Hand the rows that are left to ``into``; their format. Errors: DataError, and the source's."""
        layout: str = self.config.format
        unseen, known = Unseen(self.columns), False
        for chunk in _chunks(source):
            if layout == "auto":
                layout = format_of(chunk, self.columns)
            if not known and layout != "auto":
                check_system(self.template, self.config.system, layout)
                known = True
            unseen.look(item for item in chunk if isinstance(item, Row))
            self.take(chunk, layout, into)
            if self.on_progress:
                self.on_progress(self.before.rows_read + self.findings.rows_read)
        if self.whole and source.limit is None:
            unseen.check()
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
        weights: list[float] = []
        bad: dict[int, BadRow] = {}
        for index, item in enumerate(chunk):
            try:
                if isinstance(item, BadRow):
                    bad[index] = item
                else:
                    weight = row_weight(item, self.config.weight_column)
                    conversations.append((item.place, self._conversation(item, layout)))
                    weights.append(weight)
            except BadRow as problem:
                bad[index] = problem
                if self.config.on_bad_row == "fail":
                    break  # later rows do not matter; earlier ones may be found bad when rendered
        results = self.template.encode_batch(conversations)
        encoded = (_weighted(result, weight) for result, weight in zip(results, weights, strict=True))
        for index, item in enumerate(chunk[: len(bad) + len(conversations)]):
            yield item.place, bad[index] if index in bad else next(encoded)

    def _conversation(self, row: Row, layout: str) -> Conversation:
        made = self.columns.conversation(row, layout)
        if made.text is not None:
            return made
        try:
            turns = placed(made.messages, self.config.reasoning)
        except Problem as problem:
            raise BadRow(row.place, made.in_row(problem.field), problem.problem) from None
        made = with_system(replace(made, messages=turns), self.config.system)
        if (unheard := system_turns(made)) and self.template.leaves_out_system:
            self.findings.unheard_turns += unheard
        return made

    def _accepted(self, place: str, result: Encoded | BadRow) -> Encoded | None:
        """The row as it is trained on, or None when it is left out; DataError where that is not allowed."""
        if isinstance(result, Encoded) and not result.supervised[1:].any():
            why = " (the chat template leaves out what its turns think)" if result.thoughtless else ""
            result = BadRow(place, "", f"has no token that the model would be trained on{why}")
        if isinstance(result, BadRow):
            self._leave_out(result)
            return None
        if not result.weight:
            self.findings.weightless_rows += 1
            return None
        limit, length = self.config.max_length, len(result.tokens)
        if length <= limit:
            self.findings.thoughtless_turns += result.thoughtless
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
        cut = replace(result, tokens=result.tokens[:limit], supervised=result.supervised[:limit])
        if not cut.supervised[1:].any():
            self.findings.unsupervised_rows += 1
            return None
        self.findings.truncated_rows += 1
        self.findings.truncated_tokens += length - limit
        self.findings.thoughtless_turns += result.thoughtless
        return cut

    def _leave_out(self, bad: BadRow) -> None:
        if self.config.on_bad_row == "fail":
            raise DataError(str(bad), hint="mend the row, or set data.on_bad_row: skip")
        self.findings.note_bad_row(str(bad))
        check_limit(self.before.plus(self.findings), self.config)


def _weighted(result: Encoded | BadRow, weight: float) -> Encoded | BadRow:
    return result if weight == 1.0 or isinstance(result, BadRow) else replace(result, weight=weight)


def check_limit(findings: Findings, config: DataConfig) -> None:
    """``data.max_bad_rows``, on all that was found so far. Errors: DataError."""
    if findings.bad_rows > config.max_bad_rows:
        listed = "\n  ".join(findings.bad_row_list)
        raise DataError(f"more bad rows than data.max_bad_rows {config.max_bad_rows}, the first:\n  {listed}")


def _chunks(source: Iterable[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    items = iter(source)
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def format_of(chunk: list[Row | BadRow], columns: Columns) -> str:
    """By the first row that can be read; a chunk without one tells nothing, and needs no format."""
    first = next((item for item in chunk if isinstance(item, Row)), None)
    if first is None:
        return "auto"
    try:
        return columns.detect(first.fields)
    except DataError as error:
        raise DataError(f"{first.place}: {error}", hint=error.hint) from error


def nothing_left(name: str, found: Findings, max_length: int) -> str:
    """The sentence for a source of which every row was left out."""
    weightless = f", {found.weightless_rows:,} with weight 0" if found.weightless_rows else ""
    return (
        f"{name}: no row is left of {found.rows_read:,}: {found.bad_rows:,} bad, "
        f"{found.too_long_rows:,} longer than data.max_length {max_length:,}, "
        f"{found.unsupervised_rows:,} without an answer after the cut{weightless}"
    )
