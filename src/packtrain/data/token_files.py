"""Tokenised rows as files that are mapped into memory, so that data may be larger than it.

A folder holds ``tokens`` and ``supervised`` of all rows one after another, small arrays with an entry a
row, and ``meta.json`` with what was found in the data and the size and checksum of every file.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from packtrain.data.chat import Encoded
from packtrain.data.places import Places
from packtrain.data.report import Findings
from packtrain.data.tokenized import TokenizedRows, digests_of, starts_of
from packtrain.storage.cache import storage_errors
from packtrain.storage.checksums import crc32c_file

META = "meta.json"
TOKENS, SUPERVISED = "tokens.i4", "supervised.u1"
_A_ROW = ("lengths", "targets", "digests", "which", "numbers")
#: Beside them, where there are any.
WEIGHTS = "weights"


class Damaged(ValueError):
    """The files are not whole, or not what was written."""


@dataclass(frozen=True)
class Entry:
    """The rows of one source, as they are left after all checks."""

    rows: TokenizedRows
    format: str
    findings: Findings


@dataclass
class RowWriter:
    """Takes rows one by one and lays them flat, a chunk at a time: in memory, or in a folder's files."""

    folder: Path | None = None
    _chunk: list[tuple[str, Encoded]] = field(default_factory=list)
    _arrays: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    _places: list[Places] = field(default_factory=list)
    _files: tuple[IO[bytes], IO[bytes]] | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> RowWriter:
        if self.folder is not None:
            with storage_errors(self.folder):
                opened = [
                    self._open.enter_context((self.folder / name).open("wb")) for name in (TOKENS, SUPERVISED)
                ]
            self._files = opened[0], opened[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, place: str, encoded: Encoded) -> None:
        self._chunk.append((place, encoded))

    def seal(self) -> None:
        """End a chunk: small arrays of a row each cost more than their tokens."""
        if not self._chunk:
            return
        tokens = [encoded.tokens for _, encoded in self._chunk]
        supervised = [encoded.supervised for _, encoded in self._chunk]
        self._places.append(Places.of(place for place, _ in self._chunk))
        made: dict[str, npt.NDArray[Any]] = {
            "lengths": np.array([len(row) for row in tokens], dtype=np.int64),
            "targets": np.array([int(mask[1:].sum()) for mask in supervised], dtype=np.int64),
            "digests": digests_of(tokens, supervised),
            WEIGHTS: np.array([encoded.weight for _, encoded in self._chunk]),
        }
        flat = np.concatenate(tokens).astype("<i4"), np.concatenate(supervised).astype("u1")
        if self._files is None:
            made |= {"tokens": flat[0].astype(np.int32), "supervised": flat[1].astype(np.bool_)}
        else:
            assert self.folder is not None
            with storage_errors(self.folder):
                for file, array in zip(self._files, flat, strict=True):
                    file.write(array.data)
        for name, array in made.items():
            self._arrays.setdefault(name, []).append(array)
        self._chunk = []

    @property
    def empty(self) -> bool:
        return not self._chunk and not self._places

    def rows(self) -> TokenizedRows:
        """What was taken into memory."""
        assert self.folder is None
        self._drop_weights()
        joined = {name: np.concatenate(parts) for name, parts in self._arrays.items()}
        return TokenizedRows(
            starts=starts_of(joined["lengths"]), places=Places.joined(self._places), **joined
        )

    def finish(self, layout: str, findings: Findings) -> None:
        """Write what :func:`read_entry` reads beside the tokens."""
        assert self.folder is not None
        self._drop_weights()
        places = Places.joined(self._places)
        self._places.clear()
        self._arrays |= {"which": [places.which], "numbers": [places.numbers]}
        with storage_errors(self.folder):
            self._open.close()
            while self._arrays:  # let go of one by one
                name, parts = self._arrays.popitem()
                np.save(self.folder / f"{name}.npy", np.concatenate(parts))
            paths = sorted(self.folder.iterdir())
            meta = {
                "format": layout,
                "findings": asdict(findings),
                "beginnings": places.beginnings,
                "files": {path.name: [path.stat().st_size, crc32c_file(path)] for path in paths},
            }
            (self.folder / META).write_text(json.dumps(meta), encoding="utf-8")

    def _drop_weights(self) -> None:
        """Where they are all 1."""
        if all((weights == 1.0).all() for weights in self._arrays.get(WEIGHTS, [])):
            self._arrays.pop(WEIGHTS, None)


def read_entry(folder: Path) -> Entry:
    """What was written there, every byte checked. Errors: :class:`Damaged`; FileNotFoundError where
    there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        meta = json.loads((folder / META).read_bytes())
        a_row = (*_A_ROW, *([WEIGHTS] if f"{WEIGHTS}.npy" in meta["files"] else []))
        for name in (TOKENS, SUPERVISED, *(f"{each}.npy" for each in a_row)):
            size, checksum = meta["files"][name]
            if (folder / name).stat().st_size != size or crc32c_file(folder / name) != checksum:
                raise Damaged(f"{folder / name} is not what was written")
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in a_row}
        places = Places(tuple(meta["beginnings"]), arrays.pop("which"), arrays.pop("numbers"))
        rows = TokenizedRows(
            tokens=np.asarray(np.memmap(folder / TOKENS, dtype="<i4", mode="r")),
            supervised=np.asarray(np.memmap(folder / SUPERVISED, dtype=np.bool_, mode="r")),
            starts=starts_of(arrays["lengths"]),
            places=places,
            **arrays,
        )
        return Entry(rows, str(meta["format"]), Findings(**meta["findings"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, Damaged):
            raise
        if not folder.is_dir():  # let go of meanwhile
            raise FileNotFoundError(folder) from error
        raise Damaged(f"{folder}: {error}") from error
