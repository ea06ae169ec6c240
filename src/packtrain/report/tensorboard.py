"""Scalars for TensorBoard, written by ourselves: its library takes seconds to import and much else with it.

A file is a row of records, each with its length and checksums, that hold a protobuf ``Event``:
https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import google_crc32c

from packtrain.report.story import moment
from packtrain.rundir import Event

#: Fields of a step, by what TensorBoard calls them.
TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "epoch": "train/epoch",
    "peak_bytes": "memory/peak_bytes",
}
FOLDER = "tensorboard"
#: Bytes of a file, some thousand steps; the next ones go to another.
LARGEST = 2 << 20


@contextmanager
def board(run: Path, attempt: int, warn: Callable[[str], None]) -> Iterator[Callable[[Event], None]]:
    """What is called with each event of an attempt; a disk that refuses is one warning, and no more."""
    files = _Files(run / FOLDER, attempt)
    refused = False

    def write(event: Event) -> None:
        nonlocal refused
        if refused:
            return
        try:
            files.write(event)
        except OSError as error:
            refused = True
            warn(f"TensorBoard's file was not written: {error.strerror or error}")

    try:
        yield write
    finally:
        files.close()


class _Files:
    """An attempt's, one after another: who copies them to a bucket sends a small one again and again."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder, self._attempt = folder, attempt
        self._file: IO[bytes] | None = None
        self._name, self._part, self._size = "", 0, 0

    def write(self, event: Event) -> None:
        now = moment(event)
        if self._file is None:
            # Takes back what an earlier attempt did after the step that this one goes on from.
            self._open(now, _record(_event(now, event.step + 1, starts=True)))
        scalars = scalars_of(event)
        if scalars:
            if self._size > LARGEST:
                self.close()
                self._part += 1
                self._open(now)
            self._put(_record(_event(now, event.step, scalars=scalars)))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, now: float, head: bytes = b"") -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads them in the order of their names.
        self._name = (
            self._name or f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{self._attempt:06d}"
        )
        name = f"{self._name}.{self._part:04d}" if self._part else self._name
        self._file, self._size = (self._folder / name).open("wb", buffering=0), 0
        try:
            self._put(_record(_event(now, 0, version="brain.Event:2")) + head)
        except OSError:
            self._file.close()
            raise

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._size += len(data)


def scalars_of(event: Event) -> dict[str, float]:
    """Tag and value; empty for an event that has none."""
    fields = event.fields
    if event.kind == "step":
        return {tag: float(fields[name]) for name, tag in TAGS.items() if fields.get(name) is not None}
    if event.kind == "eval":
        # The base's value begins the curve of what is trained.
        return {f"validation/{name}": float(fields[name]) for name in ("loss", "perplexity")}
    return {}


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _event(
    time: float,
    step: int,
    *,
    version: str = "",
    starts: bool = False,
    scalars: Mapping[str, float] | None = None,
) -> bytes:
    """A protobuf ``Event``: wall_time 1, step 2, file_version 3, summary 5, session_log 7."""
    data = b"\x09" + struct.pack("<d", time) + b"\x10" + _varint(step)
    if version:
        data += _field(3, version.encode())
    if starts:
        data += _field(7, b"\x08\x01")  # SessionLog.status: START
    if scalars:
        values = (
            _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
            for tag, value in scalars.items()
        )
        data += _field(5, b"".join(values))
    return data


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
