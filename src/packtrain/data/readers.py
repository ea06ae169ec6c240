"""Files to rows: jsonl, json, csv, tsv and parquet, each also ``.gz`` and ``.zst``.

We parse the text formats ourselves so that a bad row is named by its line. Readers yield a
:class:`Row` or a :class:`BadRow` for each row and go on; they raise
:class:`~packtrain.errors.DataError` where nothing after the place can be trusted (a damaged file,
broken JSON in the middle of a list, a quote that is never closed). All but ``json`` stream.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from packtrain.data.rows import BadRow, Item, Row
from packtrain.data.text_readers import read_csv, read_json, read_jsonl, read_tsv
from packtrain.errors import ConfigError, DataError, StorageError

Reader = Callable[[IO[bytes], str], Iterator[Item]]

Opener = Callable[[], IO[bytes]]
"""Opens a file that is not on this machine, at its beginning; it can be sought in."""

COMPRESSIONS = (".gz", ".zst")
PARQUET_BATCH = 256


@dataclass
class Cursor:
    """How far a file was read, and where reading goes on."""

    rows: int = 0
    """Rows that were given."""
    lines: int = 0
    """Of JSON Lines: lines that were passed, and their bytes, unpacked. Other kinds are found by rows."""
    bytes: int = 0


def kind_of(name: str) -> str | None:
    """``jsonl``, ``json``, ``csv``, ``tsv`` or ``parquet`` by a file's name, or None."""
    lower = name.lower()
    for ending in COMPRESSIONS:
        lower = lower.removesuffix(ending)
    kind = lower.rpartition(".")[2] if "." in lower else ""
    kind = "jsonl" if kind == "ndjson" else kind
    return kind if kind in READERS else None


def read_file(
    path: Path, shown: str, *, cursor: Cursor | None = None, opener: Opener | None = None
) -> Generator[Item, None, None]:
    """The rows of one file in their order; ``shown`` is its name in places and messages.

    From ``cursor`` on, which is moved along. ``opener``: opens what lies elsewhere under this name.
    Errors: DataError (damaged, unknown extension, or without any row), ConfigError (not there, or
    may not be read), StorageError (reading failed), and those of ``opener``.
    """
    kind = kind_of(path.name)
    if kind is None:
        raise DataError(f"{shown}: is not a data file", hint=f"read are {allowed_files()}")
    cursor = cursor or Cursor()
    try:
        with _open(path, opener) as file:
            for item in _items(kind, file, shown, cursor):
                cursor.rows += 1
                yield item
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{shown}: is cut or damaged, after {cursor.rows} rows") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ConfigError(f"{shown}: cannot be read ({error.strerror})") from error
    except OSError as error:
        if error.errno is None:  # Arrow's decompressor has no class of its own
            raise DataError(f"{shown}: is cut or damaged, after {cursor.rows} rows") from error
        raise StorageError(f"{shown}: cannot be read ({error.strerror})") from error
    if cursor.rows == 0:
        raise DataError(f"{shown}: has no rows")


def _items(kind: str, file: IO[bytes], shown: str, cursor: Cursor) -> Iterator[Item]:
    """The rows from ``cursor`` on: what comes before is passed over in the cheapest way that there is."""
    if kind == "jsonl":
        _pass_over(file, cursor.bytes)
        return read_jsonl(_counted(file, cursor), shown, cursor.lines)
    if kind == "parquet":
        return read_parquet(file, shown, cursor.rows)
    return islice(READERS[kind](file, shown), cursor.rows, None)


def _pass_over(file: IO[bytes], count: int) -> None:
    if file.seekable():
        file.seek(count)
        return
    while count and (passed := len(file.read(min(count, 1 << 20)))):
        count -= passed


def _counted(file: IO[bytes], cursor: Cursor) -> Iterator[bytes]:
    for line in file:
        cursor.lines += 1
        cursor.bytes += len(line)
        yield line


def allowed_files() -> str:
    return ", ".join(f".{kind}" for kind in READERS) + ", and these with .gz or .zst"


@contextmanager
def _open(path: Path, opener: Opener | None = None) -> Iterator[IO[bytes]]:
    with opener() if opener else path.open("rb") as file:
        match path.suffix.lower():
            case ".gz":
                with gzip.open(file, "rb") as unzipped:
                    yield cast(IO[bytes], unzipped)
            case ".zst":
                import pyarrow

                with pyarrow.input_stream(file, compression="zstd") as raw, io.BufferedReader(raw) as stream:
                    yield stream
            case _:
                yield file


def read_parquet(file: IO[bytes], shown: str, passed: int = 0) -> Iterator[Item]:
    """Rows in batches, without the first ``passed``; a compressed parquet file is first unpacked to a
    temporary file."""
    import pyarrow
    from pyarrow import parquet

    with tempfile.TemporaryFile() as unpacked:
        if not (isinstance(file, io.BufferedReader) and isinstance(file.raw, io.RawIOBase)):
            shutil.copyfileobj(file, unpacked, 1 << 20)
            unpacked.seek(0)
            file = unpacked
        number = 0
        try:
            with parquet.ParquetFile(file) as table:
                groups = list(range(table.num_row_groups))
                while groups and number + table.metadata.row_group(groups[0]).num_rows <= passed:
                    number += table.metadata.row_group(groups.pop(0)).num_rows
                for batch in table.iter_batches(batch_size=PARQUET_BATCH, row_groups=groups):
                    left = max(0, min(passed - number, len(batch)))
                    number += left
                    for fields in _batch_rows(batch.slice(left)):
                        number += 1
                        place = f"{shown}:row {number}"
                        yield BadRow(place, "", "is not UTF-8") if fields is None else Row(place, fields)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{shown}: is not parquet, or damaged, after {number} rows") from error


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a record batch; None for one with text that is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(len(batch)):
            try:
                yield from batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError:
                yield None


READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
}
