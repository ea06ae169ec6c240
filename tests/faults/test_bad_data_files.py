"""Data files broken in many ways: the line that is named, and no content in any sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from packtrain.data.formats import to_conversation
from packtrain.data.readers import read_file
from packtrain.data.rows import BadRow, Row
from packtrain.errors import DataError

SECRET = "Schatzkarte"


#: what stands in the second line of a jsonl file, and what is said of it
BAD_LINES: list[tuple[bytes, str]] = [
    (b'{"a": "' + SECRET.encode(), "is not valid JSON at column 7 (Unterminated string starting at)"),
    (b'{"a": }', "is not valid JSON at column 7 (Expecting value)"),
    (b'{"a": 1', "is not valid JSON at column 8 (Expecting ',' delimiter)"),
    (b"{'a': 1}", "is not valid JSON at column 2 (Expecting property name enclosed in double quotes)"),
    (b'{"a": 1} {"a": 2}', "is not valid JSON at column 10 (Extra data)"),
    (SECRET.encode(), "is not valid JSON at column 1 (Expecting value)"),
    (b'{"a": "\xff"}', "is not UTF-8 at byte 8 of the line"),
    (b'{"a": "' + "é".encode("latin-1") + b'"}', "is not UTF-8 at byte 8 of the line"),
    (b'["' + SECRET.encode() + b'"]', "is a list, not an object with named fields"),
    (b'"' + SECRET.encode() + b'"', "is a string, not an object with named fields"),
    (b"17", "is a number, not an object with named fields"),
    (b"null", "is null, not an object with named fields"),
    (b"[" * 100_000, "is nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON (a number has too many digits)"),
    (b'{"a": "tab\there"}', "is not valid JSON at column 11 (Invalid control character at)"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_and_reading_goes_on(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    first, bad, last = read_file(path, "train.jsonl")
    assert isinstance(bad, BadRow)
    assert str(bad) == f"train.jsonl:2: {problem}"
    assert SECRET not in str(bad)
    assert (first, last) == (Row("train.jsonl:1", {"a": 1}), Row("train.jsonl:3", {"a": 3}))


#: files after whose fault nothing can be trusted: name, bytes, the sentence
BAD_FILES: list[tuple[str, bytes, str]] = [
    ("x.jsonl", b"", "x.jsonl: has no rows"),
    ("x.jsonl", b"\n \n\r\n", "x.jsonl: has no rows"),
    ("x.json", b"", "x.json: has no rows"),
    ("x.json", b" []", "x.json: has no rows"),
    ("x.json", b'{"data": []}', "x.json: has no rows"),
    ("x.csv", b"", "x.csv: has no rows"),
    ("x.csv", b"a,b\n", "x.csv: has no rows"),
    ("x.jsonl", '{"a": 1}\n'.encode("utf-16"), "x.jsonl: is UTF-16 text"),
    ("x.csv", "a,b\n1,2\n".encode("utf-16"), "x.csv: is UTF-16 text"),
    ("x.json", b'[{"a": 1},\n{"a" 2}]', "x.json:2: is not valid JSON at column 6 (Expecting ':' delimiter)"),
    ("x.json", b'[{"a": 1}\n{"a": 2}]', "x.json:2: is not valid JSON at column 1 (Expecting ',' or ']')"),
    ("x.json", b'[{"a": 1},', "x.json:1: is not valid JSON at column 11 (Expecting value)"),
    ("x.json", b'[{"a": 1}]\n[]', "x.json:2: is not valid JSON at column 1 (Extra data)"),
    ("x.json", b'[{"a": 1},\n{"a": "\xff"}]', "x.json:2: is not UTF-8"),
    ("x.json", b"[" * 100_000, "x.json: is nested too deeply"),
    ("x.csv", b"a,b,a\n1,2,3\n", "x.csv:1: the header has the column a twice"),
    ("x.csv", b'a,b\n1,2\n"3,4\n5,6\n', "x.csv:3: a quote opens here and is never closed"),
    ("x.csv", b"\xff,b\n1,2\n", "x.csv:1: is not UTF-8"),
    ("x.jsonl.gz", b"not gzip", "x.jsonl.gz: is cut or damaged, after 0 rows"),
    ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n')[:-12], "x.jsonl.gz: is cut or damaged, after 0 rows"),
    ("x.jsonl.zst", b"not zstd", "x.jsonl.zst: is cut or damaged, after 0 rows"),
    ("x.txt", b"a", "x.txt: is not a data file"),
]


@pytest.mark.parametrize(("name", "data", "sentence"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_file_is_named(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_file(path, name))
    assert str(caught.value) == sentence
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


def test_a_surrogate_in_json_is_found_where_the_text_is_used(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"instruction": "Q", "response": "cut \ud83d"}) + "\n", encoding="ascii")
    (row,) = read_file(path, "x.jsonl")
    assert isinstance(row, Row)
    with pytest.raises(BadRow, match=r"^x\.jsonl:1: response: has half a surrogate pair at character 5$"):
        to_conversation(row, "dolly")
