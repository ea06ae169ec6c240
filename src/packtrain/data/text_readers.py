"""Rows out of text that we parse ourselves, so that a bad one is named by its line: jsonl, json, csv, tsv.

The errors and the promise are those of :mod:`packtrain.data.readers`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Generator, Iterable, Iterator
from typing import IO, Any

from packtrain.data.rows import BadRow, Item, Row, shown_name, type_name
from packtrain.errors import DataError

LONGEST_CSV_FIELD = 1 << 24
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SPACE = " \t\r\n"


def _without_bom(start: bytes, shown: str) -> bytes:
    if start.startswith(_UTF16):
        raise DataError(f"{shown}: is UTF-16 text", hint="save it as UTF-8")
    return start.removeprefix(codecs.BOM_UTF8)


def _lines(file: Iterable[bytes], shown: str, passed: int = 0) -> Iterator[bytes]:
    for number, line in enumerate(file, passed):
        yield line if number else _without_bom(line, shown)


def _json_problem(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            return f"is not valid JSON at column {error.colno} ({error.msg})"
        case UnicodeDecodeError():
            return f"is not UTF-8 at byte {error.start + 1} of the line"
        case RecursionError():
            return "is nested too deeply"
        case _:  # Python's limit on the digits of a whole number
            return "is not valid JSON (a number has too many digits)"


def _object(place: str, value: Any) -> Item:
    if isinstance(value, dict):
        return Row(place, value)
    return BadRow(place, "", f"is {type_name(value)}, not an object with named fields")


def read_jsonl(file: Iterable[bytes], shown: str, passed: int = 0) -> Iterator[Item]:
    """One JSON object a line; blank lines are passed over. ``passed``: lines that were read before."""
    for number, raw in enumerate(_lines(file, shown, passed), passed + 1):
        line = raw.rstrip()
        if not line:
            continue
        place = f"{shown}:{number}"
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            yield BadRow(place, "", _json_problem(error))
        else:
            yield _object(place, value)


def read_json(file: IO[bytes], shown: str) -> Iterator[Item]:
    """A list of objects, ``{"data": [...]}``, or JSON Lines under this name; read whole.

    A file of several gigabytes should be jsonl or parquet.
    """
    raw = _without_bom(file.read(), shown)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{shown}:{line}: is not UTF-8") from error
    decoder = json.JSONDecoder()
    try:
        start = _skip_space(text, 0)
        if start == len(text):
            return
        whole = text[start] == "["
        if not whole:
            first, end = decoder.raw_decode(text, start)
            if _skip_space(text, end) != len(text):
                yield from read_jsonl(io.BytesIO(raw), shown)
                return
            if not (isinstance(first, dict) and isinstance(first.get("data"), list)):
                yield _object(f"{shown}:{text.count(chr(10), 0, start) + 1}", first)
                return
            start = _start_of_data(decoder, text, start)
        end = yield from _list_items(decoder, text, start, shown)
        if whole and _skip_space(text, end) != len(text):
            raise json.JSONDecodeError("Extra data", text, _skip_space(text, end))
    except (ValueError, RecursionError) as error:
        place = f"{shown}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else shown
        raise DataError(f"{place}: {_json_problem(error)}") from error


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _start_of_data(decoder: json.JSONDecoder, text: str, position: int) -> int:
    """Where the list of ``{"data": [...]}`` begins; the object is known to be valid."""
    start = -1
    position = _skip_space(text, position + 1)
    while text[position] != "}":
        key, position = decoder.raw_decode(text, position)
        position = _skip_space(text, _skip_space(text, position) + 1)  # past the colon
        if key == "data":
            start = position
        _, position = decoder.raw_decode(text, position)
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)
    return start


def _list_items(decoder: json.JSONDecoder, text: str, start: int, shown: str) -> Generator[Item, None, int]:
    """The items of the list that begins at ``start``, each with its line; returns where it ends."""
    line, counted = 1, 0
    position = _skip_space(text, start + 1)
    if text[position : position + 1] == "]":
        return position + 1
    while True:
        line, counted = line + text.count("\n", counted, position), position
        value, position = decoder.raw_decode(text, position)
        yield _object(f"{shown}:{line}", value)
        position = _skip_space(text, position)
        if text[position : position + 1] == "]":
            return position + 1
        if text[position : position + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        position = _skip_space(text, position + 1)


class _DecodedLines:
    """Lines as text for the csv module; remembers whether one since ``clear`` was not UTF-8."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines, self.bad = lines, False

    def __iter__(self) -> Iterator[str]:
        for raw in self._lines:
            try:
                yield raw.decode()
            except UnicodeDecodeError:
                self.bad = True
                yield raw.decode(errors="replace")


def read_csv(file: IO[bytes], shown: str, delimiter: str = ",") -> Iterator[Item]:
    """A header, then records; every value is a string. Quoted values may span lines (RFC 4180).

    A column without a name (what pandas calls the index) is left out.
    """
    lines = _DecodedLines(_lines(file, shown))
    # Module-wide, but only ever raised: the default of 128 KiB is less than a long document.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CSV_FIELD))
    records = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        lines.bad, before = False, records.line_num
        place = f"{shown}:{before + 1}"
        try:
            record = next(records, None)
        except csv.Error as error:
            if header is None or "unexpected end of data" in str(error):
                raise DataError(f"{place}: {_csv_problem(error)}") from error
            yield BadRow(place, "", _csv_problem(error))
            continue
        if record is None:
            return
        if not record:
            continue
        if header is None:
            if lines.bad:
                raise DataError(f"{place}: is not UTF-8")
            header = _header(record, place)
        elif lines.bad:
            yield BadRow(place, "", "is not UTF-8")
        elif len(record) != len(header):
            yield BadRow(place, "", f"has {len(record)} values, the header has {len(header)}")
        else:
            yield Row(place, {name: value for name, value in zip(header, record, strict=True) if name})


def read_tsv(file: IO[bytes], shown: str) -> Iterator[Item]:
    return read_csv(file, shown, delimiter="\t")


def _header(record: list[str], place: str) -> list[str]:
    header = [name.strip() for name in record]
    named = [name for name in header if name]
    for index, name in enumerate(named):
        if name in named[:index]:
            raise DataError(f"{place}: the header has the column {shown_name(name)} twice")
    return header


def _csv_problem(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote opens here and is never closed"
    if "field larger" in text:
        return f"a value is longer than {LONGEST_CSV_FIELD >> 20} MiB; is a quote never closed?"
    if "expected after" in text:
        return "a closing quote stands in the middle of a value (a quote inside is written twice)"
    return f"is not valid CSV ({text})"
