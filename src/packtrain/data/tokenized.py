"""Rows as tokens, in flat arrays: what packing, batches and the fingerprint of the data work on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from packtrain.data.places import Places

DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class TokenizedRows:
    """The rows of a split; row r has ``lengths[r]`` tokens from ``starts[r]`` on.

    Splits of one source share its tokens, which may be a file that is mapped into memory. Whatever is
    asked of all rows is kept a row, so that no answer reads all tokens.
    """

    tokens: npt.NDArray[np.int32]
    """[tokens of all rows, and of others]"""
    supervised: npt.NDArray[np.bool_]
    """Beside each token: whether the loss falls on it."""
    starts: npt.NDArray[np.int64]
    """[rows]"""
    lengths: npt.NDArray[np.int64]
    """Tokens of each row [rows]."""
    places: Places
    """Where each row comes from, such as ``train.jsonl:17``."""
    targets: npt.NDArray[np.int64]
    """Supervised tokens of each row that something precedes [rows]: what the loss is a mean over."""
    digests: npt.NDArray[np.uint8]
    """[rows, 16]: equal where two rows are the same to the model, tokens and mask."""
    weights: npt.NDArray[np.float64] | None = None
    """[rows]: what each row's loss counts; None where all count 1."""

    @classmethod
    def of(
        cls,
        tokens: Sequence[npt.NDArray[np.int32]],
        supervised: Sequence[npt.NDArray[np.bool_]],
        places: Sequence[str],
    ) -> TokenizedRows:
        """From one pair of arrays a row."""
        lengths = np.array([len(row) for row in tokens], dtype=np.int64)
        return cls(
            np.concatenate([np.empty(0, dtype=np.int32), *tokens]),
            np.concatenate([np.empty(0, dtype=np.bool_), *supervised]),
            starts_of(lengths),
            lengths,
            Places.of(places),
            np.array([int(mask[1:].sum()) for mask in supervised], dtype=np.int64),
            digests_of(tokens, supervised),
        )

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the rows' tokens and masks (and weights): the same data, seen by the model,
        or not."""
        digest = hashlib.sha256(np.ascontiguousarray(self.lengths.astype("<i8")).data)
        digest.update(np.ascontiguousarray(self.digests).data)
        if self.weights is not None:
            digest.update(np.ascontiguousarray(self.weights.astype("<f8")).data)
        return digest.hexdigest()

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Tokens and mask of one row."""
        start = int(self.starts[index])
        part = slice(start, start + int(self.lengths[index]))
        return self.tokens[part], self.supervised[part]

    def take(self, indices: npt.NDArray[np.int64]) -> TokenizedRows:
        """Some of the rows, in the order of ``indices``; their tokens are not copied."""
        return TokenizedRows(
            self.tokens,
            self.supervised,
            self.starts[indices],
            self.lengths[indices],
            self.places.take(indices),
            self.targets[indices],
            self.digests[indices],
            None if self.weights is None else self.weights[indices],
        )

    def counting(self, indices: npt.NDArray[np.int64]) -> int | float:
        """What the loss of some rows is a mean over: supervised tokens, times their rows' weights."""
        targets = self.targets[indices]
        return int(targets.sum()) if self.weights is None else float(targets @ self.weights[indices])

    def unweighted(self) -> TokenizedRows:
        """The same rows, each counting 1."""
        return self if self.weights is None else replace(self, weights=None)


def starts_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where rows begin that lie one after another."""
    return (np.cumsum(lengths) - lengths).astype(np.int64)


def digests_of(
    tokens: Sequence[npt.NDArray[np.int32]], supervised: Sequence[npt.NDArray[np.bool_]]
) -> npt.NDArray[np.uint8]:
    """:attr:`TokenizedRows.digests` of one pair of arrays a row."""
    made = bytearray()
    for row, mask in zip(tokens, supervised, strict=True):
        # The length of the whole tells where the mask begins.
        whole = row.astype("<i4").tobytes() + mask.astype("u1").tobytes()
        made += hashlib.blake2b(whole, digest_size=DIGEST_BYTES).digest()
    return np.frombuffer(bytes(made), dtype=np.uint8).reshape(len(tokens), DIGEST_BYTES)
