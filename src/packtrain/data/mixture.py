"""Several sources with weights: which rows an epoch has, and the packed sequences that they make.

A weight says how often an epoch sees each row of its source: 2 is twice, 2.5 is twice and half of them
a third time. What is left over goes round: the rows of a source stand in an order of their own, and
each epoch takes up where the one before has ended, so that none comes again before all have come.
An epoch's rows are a function of (seed, epoch) alone, and so is everything that follows from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from packtrain.config import DataConfig
from packtrain.data.packing import Indices
from packtrain.data.places import Places
from packtrain.data.shuffle import SOURCES, drawn_order
from packtrain.data.sources import Source, open_source
from packtrain.data.tokenized import TokenizedRows


@dataclass(frozen=True)
class Part:
    """A source, with the settings that its rows are read by."""

    key: str
    """``train``, or ``train[1]`` for the second item of a mixture."""
    weight: float
    config: DataConfig
    source: Source

    @property
    def revision(self) -> str | None:
        """The commit, or what stands for one in the run file."""
        return self.source.revision or self.config.revision


def open_parts(config: DataConfig) -> list[Part]:
    """What ``data.train`` names; one part where it is no mixture. Errors: those of ``open_source``."""
    if not config.mixture:
        source = open_source(source_list(config.train), revision=config.revision, limit=config.limit)
        return [Part("train", 1.0, config, source)]
    parts = []
    for number, item in enumerate(config.mixture):
        own = config.model_copy(
            update={
                "train": item.source,
                "format": item.format or config.format,
                "revision": item.revision,
                "limit": min((each for each in (item.limit, config.limit) if each), default=None),
            }
        )
        source = open_source(item.source, revision=item.revision, limit=own.limit)
        parts.append(Part(f"train[{number}]", item.weight, own, source))
    return parts


def source_list(train: Any) -> str | list[str]:
    """``data.train`` of a run file without a mixture."""
    assert isinstance(train, str) or all(isinstance(each, str) for each in train)
    names: str | list[str] = train
    return names


@dataclass(frozen=True, eq=False)
class _Joined:
    """Arrays as one, without a copy: each may be a file that is mapped into memory.

    Of an array it has what rows are asked by: its length, indices, and the slice of a row.
    """

    arrays: tuple[npt.NDArray[Any], ...]

    @cached_property
    def ends(self) -> Indices:
        return np.cumsum([len(each) for each in self.arrays], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, where: slice | Indices) -> Any:
        """A slice lies within one array: that of a row does."""
        if isinstance(where, slice):
            number = int(np.searchsorted(self.ends, where.start, side="right"))
            before = int(self.ends[number - 1]) if number else 0
            return self.arrays[number][where.start - before : where.stop - before]
        found = np.empty(len(where), dtype=self.arrays[0][:0].dtype)
        which = np.searchsorted(self.ends, where, side="right")
        for number, array in enumerate(self.arrays):
            chosen = np.flatnonzero(which == number)
            before = int(self.ends[number - 1]) if number else 0
            found[chosen] = array[where[chosen] - before]
        return found


def joined(parts: Sequence[TokenizedRows]) -> TokenizedRows:
    """The rows of all ``parts``, one part after another; their tokens are not copied."""
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(each.tokens) for each in parts[:-1])])
    return TokenizedRows(
        tokens=cast("npt.NDArray[np.int32]", _Joined(tuple(each.tokens for each in parts))),
        supervised=cast("npt.NDArray[np.bool_]", _Joined(tuple(each.supervised for each in parts))),
        starts=np.concatenate([each.starts + at for each, at in zip(parts, before, strict=True)]),
        lengths=np.concatenate([each.lengths for each in parts]),
        places=Places.joined([each.places for each in parts]),
        targets=np.concatenate([each.targets for each in parts]),
        digests=np.concatenate([each.digests for each in parts]),
        weights=_joined_weights(parts),
    )


def _joined_weights(parts: Sequence[TokenizedRows]) -> npt.NDArray[np.float64] | None:
    if all(each.weights is None for each in parts):
        return None
    return np.concatenate([np.ones(len(each)) if each.weights is None else each.weights for each in parts])


@dataclass(frozen=True)
class Mixture:
    """The training rows by their source, and how often each is seen."""

    rows: tuple[Indices, ...]
    """Of each source: its rows' indices, ascending."""
    weights: tuple[float, ...]
    seed: int

    @property
    def alike(self) -> bool:
        """Whether all epochs have the same rows."""
        return not any(self._left_over(number) for number in range(len(self.rows)))

    def counts(self) -> list[int]:
        """Rows of an epoch, of each source; the same in all epochs."""
        return [
            int(weight) * len(rows) + self._left_over(number)
            for number, (rows, weight) in enumerate(zip(self.rows, self.weights, strict=True))
        ]

    def epoch(self, number: int) -> Indices:
        """The rows of an epoch (from 0), source after source; one stands there as often as it is seen."""
        chosen: list[Indices] = [np.empty(0, dtype=np.int64)]
        for source, (rows, weight) in enumerate(zip(self.rows, self.weights, strict=True)):
            chosen += [rows] * int(weight)
            if left_over := self._left_over(source):
                order = drawn_order(self.seed, SOURCES + source, len(rows))
                places = number * left_over + np.arange(left_over)
                chosen.append(np.sort(rows[order[places % len(rows)]]))
        return np.concatenate(chosen)

    def _left_over(self, source: int) -> int:
        """Rows beyond those that every epoch sees whole; a source is never left out altogether."""
        rows, whole = len(self.rows[source]), int(self.weights[source])
        return min(rows, max(round((self.weights[source] - whole) * rows), 0 if whole else 1))


class EpochBins:
    """The packed sequences of epochs that differ: sequence ``n`` of epoch ``e`` is ``e × stride + n``."""

    def __init__(self, mixture: Mixture, lengths: Indices, pack: Callable[[Indices], list[Indices]]) -> None:
        """``lengths`` [rows] in tokens; ``pack`` puts rows of such lengths into sequences."""
        self._mixture, self._lengths, self._pack = mixture, lengths, pack
        self.stride = sum(mixture.counts())
        self._of = lru_cache(maxsize=2)(self._packed)

    def of(self, epoch: int) -> list[Indices]:
        """Row indices of each sequence of an epoch, as many sequences as in the first one at least."""
        return self._of(epoch)

    def tokens(self, epoch: int) -> Indices:
        """Tokens of each sequence of an epoch."""
        return np.array([self._lengths[rows].sum() for rows in self.of(epoch)], dtype=np.int64)

    def __getitem__(self, bin_id: int) -> Indices:
        epoch, number = divmod(bin_id, self.stride)
        return self.of(epoch)[number]

    def _packed(self, epoch: int) -> list[Indices]:
        rows = self._mixture.epoch(epoch)
        bins = [rows[places] for places in self._pack(self._lengths[rows])]
        # A run has as many steps in each epoch, and a step at least one sequence.
        while epoch and (lacking := self._least - len(bins)) > 0:
            fullest = sorted(range(len(bins)), key=lambda number: -len(bins[number]))[:lacking]
            for number in fullest:
                if (cut := len(bins[number]) // 2) > 0:
                    bins.append(bins[number][cut:])
                    bins[number] = bins[number][:cut]
        return bins

    @cached_property
    def _least(self) -> int:
        return len(self.of(0))
