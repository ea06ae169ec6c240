"""Parquet: rows by number, nested values, compression around it, damage."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from packtrain.data.formats import to_conversation
from packtrain.data.readers import read_file
from packtrain.data.rows import BadRow, Row
from packtrain.errors import DataError


def write(path: Path, columns: dict[str, object]) -> Path:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=3)
    return path


def test_rows_are_numbered_over_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"a": list(range(8)), "b": ["한글"] * 8})
    items = list(read_file(path, "x.parquet"))
    assert items[0] == Row("x.parquet:row 1", {"a": 0, "b": "한글"})
    assert items[7] == Row("x.parquet:row 8", {"a": 7, "b": "한글"})
    assert len(items) == 8


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_parquet(tmp_path: Path, ending: str) -> None:
    plain = write(tmp_path / "x.parquet", {"a": [1, 2]}).read_bytes()
    packed = gzip.compress(plain) if ending == ".gz" else pyarrow.compress(plain, "zstd", asbytes=True)
    path = tmp_path / f"y.parquet{ending}"
    path.write_bytes(packed)
    assert [item.fields["a"] for item in read_file(path, "y") if isinstance(item, Row)] == [1, 2]


def test_nulls_that_parquet_fills_in_are_as_if_absent(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "user", "content": "q", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    path = write(tmp_path / "x.parquet", {"messages": [messages], "tools": pyarrow.array([None])})
    (row,) = read_file(path, "x")
    assert isinstance(row, Row)
    conversation = to_conversation(row, "messages")
    assert conversation.tools is None
    assert conversation.messages[0] == {"role": "user", "content": "q"}
    assert conversation.messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}


def test_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    # A string column whose second value is the byte 0xff, made without the check that pyarrow does.
    data = pyarrow.py_buffer(b"a\xffb")
    offsets = pyarrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2, 3)))
    column = pyarrow.StringArray.from_buffers(3, offsets, data)
    path = write(tmp_path / "x.parquet", {"a": column})
    items = list(read_file(path, "x.parquet"))
    assert [type(item) for item in items] == [Row, BadRow, Row]
    assert str(items[1]) == "x.parquet:row 2: is not UTF-8"


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_damage_names_the_file(tmp_path: Path, damage: str) -> None:
    whole = write(tmp_path / "x.parquet", {"a": list(range(1000))}).read_bytes()
    path = tmp_path / "y.parquet"
    path.write_bytes({"text": b"no parquet at all", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(DataError, match=r"^y\.parquet: is not parquet, or damaged, after 0 rows$"):
        list(read_file(path, "y.parquet"))


def test_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"a": pyarrow.array([], pyarrow.string())})
    with pytest.raises(DataError, match=r"^x: has no rows$"):
        list(read_file(path, "x"))
