"""What was found in the data, in numbers and places: for the terminal, the receipt and the model card.

Rows may be private: only places, counts and lengths stand here, never contents.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from packtrain.data.places import Places
from packtrain.data.row_weights import weight_range
from packtrain.data.tokenized import TokenizedRows

#: So many bad rows, duplicates and overlaps are listed by place; all are counted.
LISTED = 10


@dataclass
class Findings:
    """Counted while the rows are read; of training and validation together."""

    rows_read: int = 0
    """Rows in the sources, bad ones included."""
    bad_rows: int = 0
    bad_row_list: list[str] = field(default_factory=list)
    """The first ten: ``file:line: field: what is wrong``."""
    truncated_rows: int = 0
    truncated_tokens: int = 0
    """Tokens that were cut off."""
    too_long_rows: int = 0
    """Left out because of ``data.too_long: skip``."""
    unsupervised_rows: int = 0
    """Left out because nothing that is trained on was left after the cut."""
    thoughtless_turns: int = 0
    """Assistant turns that are not learnt, since the chat template leaves out what they think."""
    weightless_rows: int = 0
    """Left out because their weight is 0."""
    unheard_turns: int = 0
    """System turns that the chat template leaves out, so that the model never sees them."""

    def note_bad_row(self, problem: str) -> None:
        self.bad_rows += 1
        if len(self.bad_row_list) < LISTED:
            self.bad_row_list.append(problem)

    def plus(self, other: Findings) -> Findings:
        """Those of two sources, this one first."""
        listed = (self.bad_row_list + other.bad_row_list)[:LISTED]
        counts = {
            name: value + getattr(other, name) for name, value in vars(self).items() if name != "bad_row_list"
        }
        return Findings(bad_row_list=listed, **counts)


@dataclass(frozen=True)
class Alike:
    """Rows that are the same to the model, token for token."""

    rows: int = 0
    places: tuple[str, ...] = ()
    """The first ten, such as ``train.jsonl:7 is train.jsonl:2``."""


@dataclass(frozen=True)
class SplitReport:
    rows: int
    tokens: int
    supervised_tokens: int
    """Those that the loss falls on."""
    lengths: dict[str, int]
    """Tokens of a row: ``min``, ``p50``, ``p90``, ``p99``, ``max``."""
    bins: int
    packing_efficiency: float
    """Tokens over bins times ``max_length``."""
    fingerprint: str
    """SHA-256 over tokens and mask."""
    weights: dict[str, float] | None = None
    """Of the rows: ``min``, ``mean``, ``max``; None where each counts 1."""

    @classmethod
    def of(cls, rows: TokenizedRows, bins: int, max_length: int) -> SplitReport:
        tokens = int(rows.lengths.sum())
        quantiles = (
            np.quantile(rows.lengths, [0.0, 0.5, 0.9, 0.99, 1.0], method="higher").astype(int).tolist()
        )
        return cls(
            rows=len(rows),
            tokens=tokens,
            supervised_tokens=int(rows.targets.sum()),
            lengths=dict(zip(("min", "p50", "p90", "p99", "max"), quantiles, strict=True)),
            bins=bins,
            packing_efficiency=round(tokens / (bins * max_length), 4),
            fingerprint=rows.fingerprint,
            weights=weight_range(rows),
        )


@dataclass(frozen=True)
class PartReport:
    """A source of a mixture, in training."""

    source: str
    weight: float
    rows: int
    """That are trained on; each counted once."""
    tokens: int
    """Theirs."""
    supervised_tokens: int
    validation_rows: int
    """That were held out."""
    epoch_rows: int
    """Rows that an epoch sees, as often as it sees them."""
    epoch_tokens: int
    """Theirs; on average, where epochs differ."""
    thoughtless_turns: int
    """Of :class:`Findings`, those of this source; what was held out included."""

    @classmethod
    def of(
        cls,
        source: str,
        weight: float,
        rows: TokenizedRows,
        epoch_rows: int,
        validation_rows: int,
        thoughtless_turns: int,
    ) -> PartReport:
        tokens = int(rows.lengths.sum())
        epoch_tokens = round(tokens * epoch_rows / max(1, len(rows)))
        supervised = int(rows.targets.sum())
        return cls(
            source, weight, len(rows), tokens, supervised, validation_rows, epoch_rows, epoch_tokens,
            thoughtless_turns,
        )  # fmt: skip


@dataclass(frozen=True)
class DataReport:
    format: str
    max_length: int
    sources: dict[str, dict[str, Any]]
    """``train``, and ``validation`` where it has its own: source, revision, fingerprint, files."""
    findings: Findings
    train: SplitReport
    validation: SplitReport | None
    duplicates: Alike
    """Rows of training that stand there before."""
    overlap: Alike
    """Rows of validation that stand in training, too."""
    notes: tuple[str, ...] = ()
    """What else a person should know, a sentence each."""
    mixture: tuple[PartReport, ...] = ()
    """Of each source, where they have weights."""
    scope: str = ""
    """Of what the numbers are, where they are not of all the data."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self) | {"warnings": self.warnings(), "mixture": self._shares()}
        for key in ("notes", *([] if self.scope else ["scope"])):
            del plain[key]
        if self.train.weights is None:
            del plain["train"]["weights"]
        if self.validation is not None:  # which has none
            del plain["validation"]["weights"]
        return plain if self.mixture else {name: value for name, value in plain.items() if name != "mixture"}

    def _shares(self) -> list[dict[str, Any]]:
        """Of each source, with its share of an epoch's tokens."""
        total = max(1, sum(part.epoch_tokens for part in self.mixture))
        return [asdict(part) | {"share": round(part.epoch_tokens / total, 4)} for part in self.mixture]

    def warnings(self) -> list[str]:
        """A sentence each for what may not be meant."""
        found, lines = self.findings, list(self.notes)
        if found.bad_rows:
            lines.append(f"{_rows(found.bad_rows)} bad and left out, the first: {found.bad_row_list[0]}")
        if found.truncated_rows:
            share = found.truncated_tokens / (found.truncated_tokens + self._tokens)
            lines.append(
                f"{_rows(found.truncated_rows)} longer than data.max_length {self.max_length} and cut: "
                f"{found.truncated_tokens:,} tokens lost ({share:.1%})"
            )
        if found.too_long_rows:
            lines.append(
                f"{_rows(found.too_long_rows)} longer than data.max_length {self.max_length} and left out"
            )
        if found.weightless_rows:
            lines.append(f"{_rows(found.weightless_rows)} left out: the weight is 0")
        if found.unsupervised_rows:
            lines.append(f"{_rows(found.unsupervised_rows)} left out: the cut took all of the answer")
        if found.thoughtless_turns:
            turns = found.thoughtless_turns
            lines.append(
                f"{turns:,} assistant turn{'s are' if turns != 1 else ' is'} not learnt: the chat template "
                "leaves out the reasoning of earlier turns (a row that ends with such a turn would teach it)"
                + self._thoughtless()
            )
        if found.unheard_turns:
            turns = found.unheard_turns
            lines.append(
                f"{turns:,} system turn{'s' if turns != 1 else ''} never seen: the chat template leaves "
                "system turns out (another one can be named with model.chat_template)"
            )
        lines += [
            f"data.train: no row of {part.source} is left for training: validation took all of them"
            for part in self.mixture
            if not part.rows
        ]
        if self.duplicates.rows:
            lines.append(
                f"{_rows(self.duplicates.rows)} in training more than once, "
                f"the first: {self.duplicates.places[0]}"
            )
        if self.overlap.rows:
            lines.append(
                f"{_rows(self.overlap.rows)} in both validation and training, so that the validation loss "
                f"looks better than it is, the first: {self.overlap.places[0]}"
            )
        return lines

    def _thoughtless(self) -> str:
        """Which sources of a mixture have such turns."""
        named = [
            f"{part.thoughtless_turns:,} in {part.source}" for part in self.mixture if part.thoughtless_turns
        ]
        return f": {', '.join(named)}" if named else ""

    def lines(self) -> list[str]:
        """The numbers for a terminal."""
        files = [file for source in self.sources.values() for file in source["files"]]
        count = f"{len(files)} file{'s' if len(files) != 1 else ''}"
        lines = [f"format       {self.format}, {self.findings.rows_read:,} rows read from {count}"]
        lines += [f"scope        {self.scope}"] if self.scope else []
        for name, split in (("training", self.train), ("validation", self.validation)):
            if split is None:
                lines.append(f"{name:<12} none")
                continue
            spread = ", ".join(f"{key} {value:,}" for key, value in split.lengths.items())
            share = split.supervised_tokens / split.tokens
            lines += [
                f"{name:<12} {split.rows:,} rows, {split.tokens:,} tokens, "
                f"{split.supervised_tokens:,} of them supervised ({share:.1%})",
                f"  lengths    {spread} tokens",
                f"  packing    {split.bins:,} sequences of {self.max_length:,} tokens, "
                f"{split.packing_efficiency:.1%} full",
            ]
            if split.weights is not None:
                spread = ", ".join(f"{key} {value:g}" for key, value in split.weights.items())
                lines.append(f"  weights    {spread} of a row")
        if self.mixture:
            lines.append("mixture      shares of an epoch's tokens")
        for part in self._shares():
            lines.append(
                f"  {part['share']:>6.1%}   {part['source']}: weight {part['weight']:g}, "
                f"{part['rows']:,} rows ({part['tokens']:,} tokens, {part['supervised_tokens']:,} of them "
                f"supervised), {part['epoch_rows']:,} an epoch"
            )
        return lines

    @property
    def _tokens(self) -> int:
        return self.train.tokens + (self.validation.tokens if self.validation else 0)


def duplicates(rows: TokenizedRows) -> Alike:
    """Rows that repeat an earlier one."""
    first = _first_alike(rows.digests)
    again = np.flatnonzero(first != np.arange(len(rows)))
    return _alike(rows.places, again, rows.places, first[again])


def overlap(validation: TokenizedRows, train: TokenizedRows) -> Alike:
    """Rows of ``validation`` that stand in ``train``."""
    # The last that is alike stands for all: it comes first when all are turned round.
    both = np.concatenate((train.digests[::-1], validation.digests))
    first = _first_alike(both)[len(train) :]
    found = np.flatnonzero(first < len(train))
    return _alike(validation.places, found, train.places, len(train) - 1 - first[found])


def _first_alike(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """For each row [rows] the first one with its digest: itself, or one before it."""
    keys = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: the first of those alike comes first
    new = np.ones(len(keys), dtype=np.bool_)
    new[1:] = False
    for column in keys.T:  # one after another: of millions of rows each copy counts
        in_order = column[order]
        new[1:] |= in_order[1:] != in_order[:-1]
    # The place, in that order, where the run of those alike begins.
    begins = np.flatnonzero(new)
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = order[np.repeat(begins, np.diff(np.r_[begins, len(keys)]))]
    return first


def _alike(
    places: Places, rows: npt.NDArray[np.int64], others: Places, other_rows: npt.NDArray[np.int64]
) -> Alike:
    pairs = zip(rows[:LISTED].tolist(), other_rows[:LISTED].tolist(), strict=True)
    return Alike(len(rows), tuple(f"{places[row]} is {others[other]}" for row, other in pairs))


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"
