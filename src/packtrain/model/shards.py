"""Tensors of safetensors files, one at a time or some rows of one, by plain reads.

A mapped file counts as the process's memory as far as it was touched; a read leaves nothing behind.
So a model that is larger than memory goes through a process that stays small.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from packtrain.errors import ConfigError, StorageError
from packtrain.model.folder import check_folder, weight_files

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """Where a tensor's numbers lie."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """Of its first byte, in the file."""
    bytes: int

    @property
    def row_bytes(self) -> int:
        return self.bytes // self.shape[0] if self.shape and self.shape[0] else self.bytes


def header(path: Path) -> tuple[dict[str, dict[str, object]], int]:
    """Of a file that was checked: name -> dtype, shape, offsets; and where the tensors begin."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        return dict(json.loads(file.read(length))), 8 + length


class Shards:
    """The tensors of some safetensors files, by name."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """The files must be whole. Errors: :class:`ConfigError` for a type of numbers that is not known."""
        self.tensors: dict[str, Stored] = {}
        for path in paths:
            entries, begin = header(path)
            for name, entry in entries.items():
                if name != "__metadata__":
                    self.tensors[name] = _stored(path, name, entry, begin)

    @classmethod
    def of(cls, folder: Path, source: str) -> Shards:
        """Of a model's folder, which is checked. Errors: those of :func:`check_folder`."""
        check_folder(folder, source, weights=True)
        return cls(weight_files(folder, source))

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """A tensor as it is stored, or its rows from ``first`` up to ``last``."""
        stored = self.tensors[name]
        if not stored.shape:
            return _read(stored, stored.offset, stored.bytes).reshape(())
        last = stored.shape[0] if last is None else min(last, stored.shape[0])
        flat = _read(stored, stored.offset + first * stored.row_bytes, (last - first) * stored.row_bytes)
        return flat.reshape(last - first, *stored.shape[1:])

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        """The rows of these indices, in this order."""
        return torch.cat([self.read(name, index, index + 1) for index in indices])


def _stored(path: Path, name: str, entry: dict[str, object], begin: int) -> Stored:
    kind, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if kind not in DTYPES:
        raise ConfigError(f"{path}: {name} is stored as {kind}, which cannot be read here")
    assert isinstance(shape, list) and isinstance(offsets, list)
    return Stored(path, DTYPES[kind], tuple(shape), begin + offsets[0], offsets[1] - offsets[0])


def _read(stored: Stored, offset: int, length: int) -> Tensor:
    if not length:
        return torch.empty(0, dtype=stored.dtype)
    buffer = bytearray(length)
    try:
        with stored.path.open("rb", buffering=0) as file:
            file.seek(offset)
            view, got = memoryview(buffer), 0
            while got < length:
                count = file.readinto(view[got:])
                if not count:
                    raise StorageError(f"{stored.path}: ends too early", hint="fetch the file again")
                got += count
    except OSError as error:
        raise StorageError(f"{stored.path}: cannot be read ({error.strerror or error})") from error
    return torch.frombuffer(buffer, dtype=stored.dtype)
