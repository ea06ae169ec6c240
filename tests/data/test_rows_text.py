"""jsonl, json, csv and tsv, plain and compressed: the rows, and the true line of each."""

from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from packtrain.data.readers import kind_of, read_file
from packtrain.data.rows import BadRow, Row, shown_name, shown_names
from packtrain.errors import DataError


def zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def read(path: Path, data: bytes | str) -> list[Row | BadRow]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_file(path, path.name))


def rows(items: list[Row | BadRow]) -> list[tuple[str, dict[str, object]]]:
    assert all(isinstance(item, Row) for item in items), items
    return [(item.place, item.fields) for item in items if isinstance(item, Row)]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("jsonl", '{"a": "1", "b": "한"}\n{"a": "2", "b": "🐎"}\n'),
        ("ndjson", '{"a": "1", "b": "한"}\n{"a": "2", "b": "🐎"}'),
        ("json", '[{"a": "1", "b": "한"},\n {"a": "2", "b": "🐎"}]'),
        ("csv", "a,b\n1,한\n2,🐎\n"),
        ("tsv", "a\tb\n1\t한\n2\t🐎\n"),
    ],
)
def test_each_kind_and_compression_gives_the_same_rows(
    tmp_path: Path, kind: str, text: str, packed: str
) -> None:
    items = read(tmp_path / f"x.{kind}{packed}", PACKED[packed](text.encode()))
    assert [fields for _, fields in rows(items)] == [{"a": "1", "b": "한"}, {"a": "2", "b": "🐎"}]


def test_zstd_of_several_frames_is_read_to_the_end(tmp_path: Path) -> None:
    data = zstd(b'{"a": 1}\n') + zstd(b'{"a": 2}\n')
    assert [fields["a"] for _, fields in rows(read(tmp_path / "x.jsonl.zst", data))] == [1, 2]


def test_jsonl_lines_are_true_with_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    items = read(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}\r\n{"a": 3}')
    assert rows(items) == [("x.jsonl:1", {"a": 1}), ("x.jsonl:4", {"a": 2}), ("x.jsonl:5", {"a": 3})]


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path: Path) -> None:
    items = read(tmp_path / "x.jsonl", '{"a": "one\u2028two\x85three"}\n{"a": "b"}\n')
    assert [place for place, _ in rows(items)] == ["x.jsonl:1", "x.jsonl:2"]


def test_reading_goes_on_after_bad_lines(tmp_path: Path) -> None:
    items = read(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": \n\xff\n[1]\n{"a": 2}\n')
    assert [type(item) for item in items] == [Row, BadRow, BadRow, BadRow, Row]
    assert [item.place for item in items] == [f"x.jsonl:{line}" for line in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[\n{"a": 1},\n\n{"a":\n2}, {"a": 3}\n]\n', [("x.json:2", 1), ("x.json:4", 2), ("x.json:5", 3)]),
        (
            '{"version": {"n": [1]}, "data": [{"a": 1},\n{"a": 2}], "more": 3}',
            [("x.json:1", 1), ("x.json:2", 2)],
        ),
        ('{"a": 1}\n{"a": 2}\n', [("x.json:1", 1), ("x.json:2", 2)]),
        ('\n{"a": 1}', [("x.json:2", 1)]),
        ('\ufeff[{"a": 1}]', [("x.json:1", 1)]),
    ],
)
def test_json_as_list_as_data_and_as_lines(
    tmp_path: Path, text: str, expected: list[tuple[str, int]]
) -> None:
    assert [(place, fields["a"]) for place, fields in rows(read(tmp_path / "x.json", text))] == expected


def test_a_json_item_that_is_no_object_is_one_bad_row(tmp_path: Path) -> None:
    items = read(tmp_path / "x.json", '[{"a": 1},\n"two",\n{"a": 3}]')
    assert str(items[1]) == "x.json:2: is a string, not an object with named fields"
    assert [type(item) for item in items] == [Row, BadRow, Row]


def test_csv_quotes_newlines_and_lines(tmp_path: Path) -> None:
    text = 'a,b\r\n"one, ""quoted""\r\nand more",x\r\n\r\n2,"y"\r\n'
    assert rows(read(tmp_path / "x.csv", text)) == [
        ("x.csv:2", {"a": 'one, "quoted"\r\nand more', "b": "x"}),
        ("x.csv:5", {"a": "2", "b": "y"}),
    ]


def test_csv_reads_long_values_and_leaves_out_a_column_without_name(tmp_path: Path) -> None:
    long = "x" * 300_000
    assert rows(read(tmp_path / "x.csv", f"\ufeff, a \n0,{long}\n")) == [("x.csv:2", {"a": long})]


def test_csv_goes_on_after_bad_records(tmp_path: Path) -> None:
    items = read(tmp_path / "x.csv", b'a,b\n1\n1,2,3\n"x"y,2\n\xff,2\n3,4\n')
    assert [str(item) for item in items[:4]] == [
        "x.csv:2: has 1 values, the header has 2",
        "x.csv:3: has 3 values, the header has 2",
        "x.csv:4: a closing quote stands in the middle of a value (a quote inside is written twice)",
        "x.csv:5: is not UTF-8",
    ]
    assert rows(items[4:]) == [("x.csv:6", {"a": "3", "b": "4"})]


def test_reading_100_000_rows_keeps_memory_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    line = json.dumps({"instruction": "i" * 40, "response": "r" * 60}).encode() + b"\n"
    path.write_bytes(gzip.compress(line * 100_000, compresslevel=1))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_file(path, "x")) == 100_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, f"{peak} bytes for {len(line) * 100_000} bytes of rows"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JSONL", "jsonl"),
        ("a.json.gz", "json"),
        ("a.csv.zst", "csv"),
        ("a.txt", None),
        ("jsonl", None),
        ("a.gz", None),
        ("a.parquet", "parquet"),
    ],
)
def test_kind_of(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_a_bad_row_says_where_and_survives_another_process() -> None:
    bad = pickle.loads(pickle.dumps(BadRow("x.jsonl:3", "response", "is empty")))  # noqa: S301
    assert (bad.place, bad.field, bad.problem) == ("x.jsonl:3", "response", "is empty")
    assert str(bad) == "x.jsonl:3: response: is empty"


def test_names_that_may_be_content_are_only_measured() -> None:
    assert shown_name("x" * 41) == "(a name of 41 characters)"
    assert shown_name("a\nb") == "(a name of 3 characters)"
    assert shown_names(["a", "b", "c"], most=2) == "a, b and 1 more"


def test_what_a_damaged_file_holds_before_the_damage_is_not_a_whole(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % number for number in range(5000)))
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"^x\.jsonl\.gz: is cut or damaged, after \d+ rows"):
        list(read_file(path, path.name))
