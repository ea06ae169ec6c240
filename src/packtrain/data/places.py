"""Where each row comes from, in a few bytes a row: millions of strings would take more than their tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

#: A beginning and the number that a place ends with, as ``str`` writes it.
_NUMBERED = re.compile(r"(.*?)(0|[1-9]\d{0,17})", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Places(Sequence[str]):
    """Names such as ``train.jsonl:17``, each as one of few beginnings and a number."""

    beginnings: tuple[str, ...]
    which: npt.NDArray[np.int32]
    """[rows]: its beginning."""
    numbers: npt.NDArray[np.int64]
    """[rows]: what follows it; -1 for nothing."""

    @classmethod
    def of(cls, places: Iterable[str]) -> Places:
        known: dict[str, int] = {}
        pairs = [_parted(place) for place in places]
        which = [known.setdefault(beginning, len(known)) for beginning, _ in pairs]
        numbers = [number for _, number in pairs]
        return cls(tuple(known), np.array(which, dtype=np.int32), np.array(numbers, dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Places:
        """The places of all ``parts``, one after another."""
        known: dict[str, int] = {}
        which = [np.empty(0, dtype=np.int32)]
        for part in parts:
            renamed = [known.setdefault(beginning, len(known)) for beginning in part.beginnings]
            which.append(np.array(renamed, dtype=np.int32)[part.which])
        numbers = [np.empty(0, dtype=np.int64), *(part.numbers for part in parts)]
        return cls(tuple(known), np.concatenate(which), np.concatenate(numbers))

    def take(self, indices: npt.NDArray[np.int64]) -> Places:
        """Those of some rows, in the order of ``indices``."""
        return Places(self.beginnings, self.which[indices], self.numbers[indices])

    def __len__(self) -> int:
        return len(self.which)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number, beginning = int(self.numbers[index]), self.beginnings[int(self.which[index])]
        return f"{beginning}{number}" if number >= 0 else beginning

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def _parted(place: str) -> tuple[str, int]:
    found = _NUMBERED.fullmatch(place)
    return (found[1], int(found[2])) if found else (place, -1)
