"""TensorBoard's file, read back by its published format."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
from report_kit import evaluated, started, step
from tfevents import fields, records

from packtrain.report import tensorboard
from packtrain.report.tensorboard import FOLDER, board
from packtrain.rundir import Event
from packtrain.storage.checksums import crc32c_bytes


def event(kind: str, at: int, given: dict[str, Any]) -> Event:
    return Event(kind, at, 2, 0, "2026-01-01T00:00:00.500Z", fields=given)


def test_scalars_by_step(tmp_path: Path) -> None:
    warned: list[str] = []
    with board(tmp_path, 2, warned.append) as write:
        for told in (started(300), evaluated(0, 4.0), step(301, loss="nan"), step(302)):
            write(event(*told))
    [path] = (tmp_path / FOLDER).iterdir()
    assert path.name.startswith("events.out.tfevents.1767225600.") and path.name.endswith(".000002")
    version, start, validation, bad, good = (dict(fields(each)) for each in records(path.read_bytes()))
    assert version[3] == b"brain.Event:2"
    assert (start[2], start[7]) == (301, b"\x08\x01"), "what was done after step 300 is taken back"
    assert validation[1] == 1767225600.5 and validation[2] == 0
    values = [dict(fields(value)) for _, value in fields(good[5])]
    scalars = {value[1].decode(): value[2] for value in values}
    assert good[2] == 302
    assert scalars["train/loss"] == pytest.approx(3.0 - 30.2)
    assert scalars["memory/peak_bytes"] == pytest.approx(1e9)
    loss = dict(fields(fields(bad[5])[0][1]))[2]
    assert math.isnan(loss)
    assert warned == []


def test_the_checksums_are_masked_crc32c(tmp_path: Path) -> None:
    with board(tmp_path, 1, print) as write:
        write(event(*step(1)))
    data = next((tmp_path / FOLDER).iterdir()).read_bytes()
    (length, of_length) = struct.unpack_from("<QI", data)
    (of_data,) = struct.unpack_from("<I", data, 12 + length)

    def masked(part: bytes) -> int:
        import base64

        crc = int.from_bytes(base64.b64decode(crc32c_bytes(part)), "big")
        return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32

    assert (of_length, of_data) == (masked(data[:8]), masked(data[12 : 12 + length]))


def test_a_disk_that_refuses_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    warned: list[str] = []
    with board(tmp_path, 1, warned.append) as write:
        write(event(*step(1)))
        write(event(*step(2)))
    assert len(warned) == 1 and "TensorBoard" in warned[0]


def test_a_long_attempt_is_several_files_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "LARGEST", 1000)
    with board(tmp_path, 2, print) as write:
        for told in (started(300), *(step(number) for number in range(301, 351))):
            write(event(*told))
    paths = sorted((tmp_path / FOLDER).iterdir())
    assert len(paths) > 5 and all(path.stat().st_size < 1500 for path in paths)
    assert paths[0].name.endswith(".000002") and paths[1].name.endswith(".000002.0001")
    steps = []
    for path in paths:
        version, *rest = (dict(fields(each)) for each in records(path.read_bytes()))
        assert version[3] == b"brain.Event:2"
        steps += [each[2] for each in rest if 5 in each]
        assert any(7 in each for each in rest) == (path == paths[0]), "it takes back once"
    assert steps == list(range(301, 351))
