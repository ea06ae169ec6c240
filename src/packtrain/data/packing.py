"""Rows into bins of at most `max_length` tokens: best-fit decreasing, counted by length.

Best-fit decreasing takes rows from the longest to the shortest and puts each into the fullest bin
that still has room (Johnson 1973: never more than 11/9 of the fewest bins possible, plus one).
Rows of one length are alike, and so are bins with the same room left: both are handled as groups,
which makes the same bins as one row at a time would and takes well under a second for a million
rows. The result depends on the lengths alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class _OpenBins:
    """Bins by the room that they have left, as arrays of bin numbers, oldest first."""

    def __init__(self) -> None:
        self._rooms: list[int] = []
        self._bins: dict[int, list[Indices]] = {}

    def add(self, room: int, bins: Indices) -> None:
        if not room or not len(bins):
            return
        if room not in self._bins:
            insort(self._rooms, room)
            self._bins[room] = []
        self._bins[room].append(bins)

    def tightest(self, length: int) -> int | None:
        """The least room that holds ``length``."""
        at = bisect_left(self._rooms, length)
        return self._rooms[at] if at < len(self._rooms) else None

    def take(self, room: int) -> Indices:
        del self._rooms[bisect_left(self._rooms, room)]
        return np.concatenate(self._bins.pop(room))


def pack(lengths: npt.NDArray[np.integer], capacity: int) -> list[Indices]:
    """Row indices of each bin, ascending; every row stands in exactly one bin.

    ``lengths`` [rows] in tokens, each from 1 to ``capacity``. Deterministic.
    """
    if not len(lengths):
        return []
    assert int(lengths.min()) >= 1 and int(lengths.max()) <= capacity, "lengths must be 1..capacity"
    by_length = np.argsort(-lengths.astype(np.int64), kind="stable")
    ordered = lengths[by_length]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    bin_of = np.empty(len(lengths), dtype=np.int64)
    open_bins, bins = _OpenBins(), 0
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(ordered)], strict=True):
        length, rows = int(ordered[start]), by_length[start:stop]
        while len(rows) and (room := open_bins.tightest(length)) is not None:
            rows = _fill(rows, length, open_bins.take(room), room, bin_of, open_bins)
        if len(rows):
            new = np.arange(bins, bins + -(-len(rows) // (capacity // length)), dtype=np.int64)
            _fill(rows, length, new, capacity, bin_of, open_bins)
            bins += len(new)
    return _grouped(bin_of, bins)


def one_row_a_bin(rows: int) -> list[Indices]:
    """Bins without packing."""
    return list(np.arange(rows, dtype=np.int64).reshape(rows, 1))


def _fill(
    rows: Indices, length: int, bins: Indices, room: int, bin_of: Indices, open_bins: _OpenBins
) -> Indices:
    """Put rows of one length into bins of one room; return the rows that are left.

    One row at a time, best fit fills a bin of the tightest room up before it takes the next one:
    after a row its room is smaller still, and so the tightest again.
    """
    each = room // length
    full, rest = divmod(min(len(rows), each * len(bins)), each)
    used = full + (rest > 0)
    placed = full * each + rest
    bin_of[rows[:placed]] = np.repeat(bins[:used], each)[:placed]
    open_bins.add(room - each * length, bins[:full])
    open_bins.add(room - rest * length if rest else 0, bins[full:used])
    open_bins.add(room, bins[used:])
    return rows[placed:]


def _grouped(bin_of: Indices, bins: int) -> list[Indices]:
    rows = np.argsort(bin_of, kind="stable")
    ends = np.cumsum(np.bincount(bin_of, minlength=bins)).tolist()
    return [rows[start:stop] for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
