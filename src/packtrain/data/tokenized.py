"""Rows as tokens, in flat arrays: what packing, batches and the fingerprint of the data work on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenizedRows:
    """All rows of a split; row r has the tokens ``offsets[r]`` to ``offsets[r + 1]``."""

    tokens: npt.NDArray[np.int32]
    """[tokens of all rows]"""
    supervised: npt.NDArray[np.bool_]
    """[tokens of all rows]: what the loss falls on."""
    offsets: npt.NDArray[np.int64]
    """[rows + 1]"""
    places: list[str]
    """Where each row comes from, such as ``train.jsonl:17``."""

    @classmethod
    def of(
        cls,
        tokens: Sequence[npt.NDArray[np.int32]],
        supervised: Sequence[npt.NDArray[np.bool_]],
        places: list[str],
    ) -> TokenizedRows:
        """From one pair of arrays a row."""
        lengths = np.array([len(row) for row in tokens], dtype=np.int64)
        return cls(
            np.concatenate([np.empty(0, dtype=np.int32), *tokens]),
            np.concatenate([np.empty(0, dtype=np.bool_), *supervised]),
            np.r_[0, np.cumsum(lengths)].astype(np.int64),
            places,
        )

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row [rows]."""
        lengths: npt.NDArray[np.int64] = np.diff(self.offsets)
        return lengths

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Supervised tokens of each row that something precedes [rows]: what the loss is a mean over."""
        counts = np.r_[0, np.cumsum(self.supervised)]
        first = self.supervised[self.offsets[:-1]]
        targets: npt.NDArray[np.int64] = counts[self.offsets[1:]] - counts[self.offsets[:-1]] - first
        return targets

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over tokens, mask and offsets: the same data, seen by the model, or not."""
        digest = hashlib.sha256()
        for array in (self.tokens.astype("<i4"), self.supervised.astype("u1"), self.offsets.astype("<i8")):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Tokens and mask of one row."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.tokens[part], self.supervised[part]

    def take(self, indices: Iterable[int]) -> TokenizedRows:
        """Some of the rows, in the order of ``indices``."""
        chosen = list(indices)
        parts = [self.row(index) for index in chosen]
        return TokenizedRows.of(
            [tokens for tokens, _ in parts],
            [mask for _, mask in parts],
            [self.places[index] for index in chosen],
        )

    def hashes(self) -> list[bytes]:
        """16 bytes for each row's tokens: equal where two rows are the same to the model."""
        return [
            hashlib.blake2b(self.row(index)[0].tobytes(), digest_size=16).digest()
            for index in range(len(self))
        ]
