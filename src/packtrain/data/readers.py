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
from pathlib import Path
from typing import IO, Any, cast

from packtrain.data.rows import BadRow, Item, Row
from packtrain.data.text_readers import read_csv, read_json, read_jsonl, read_tsv
from packtrain.errors import ConfigError, DataError, StorageError

Reader = Callable[[IO[bytes], str], Iterator[Item]]

COMPRESSIONS = (".gz", ".zst")
PARQUET_BATCH = 256


def kind_of(name: str) -> str | None:
    """``jsonl``, ``json``, ``csv``, ``tsv`` or ``parquet`` by a file's name, or None."""
    lower = name.lower()
    for ending in COMPRESSIONS:
        lower = lower.removesuffix(ending)
    kind = lower.rpartition(".")[2] if "." in lower else ""
    kind = "jsonl" if kind == "ndjson" else kind
    return kind if kind in READERS else None


def read_file(path: Path, shown: str) -> Generator[Item, None, None]:
    """The rows of one file in their order; ``shown`` is its name in places and messages.

    Errors: DataError (damaged, unknown extension, or without any row), ConfigError (not there, or
    may not be read), StorageError (reading failed).
    """
    kind = kind_of(path.name)
    if kind is None:
        raise DataError(f"{shown}: is not a data file", hint=f"read are {allowed_files()}")
    count = 0
    try:
        with _open(path) as file:
            for item in READERS[kind](file, shown):
                count += 1
                yield item
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{shown}: is cut or damaged, after {count} rows") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ConfigError(f"{shown}: cannot be read ({error.strerror})") from error
    except OSError as error:
        if error.errno is None:  # Arrow's decompressor has no class of its own
            raise DataError(f"{shown}: is cut or damaged, after {count} rows") from error
        raise StorageError(f"{shown}: cannot be read ({error.strerror})") from error
    if count == 0:
        raise DataError(f"{shown}: has no rows")


def allowed_files() -> str:
    return ", ".join(f".{kind}" for kind in READERS) + ", and these with .gz or .zst"


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    match path.suffix.lower():
        case ".gz":
            with gzip.open(path, "rb") as unzipped:
                yield cast(IO[bytes], unzipped)
        case ".zst":
            import pyarrow

            with pyarrow.input_stream(str(path), compression="zstd") as raw, io.BufferedReader(raw) as stream:
                yield stream
        case _:
            with path.open("rb") as file:
                yield file


def read_parquet(file: IO[bytes], shown: str) -> Iterator[Item]:
    """Rows in batches; a compressed parquet file is first unpacked to a temporary file."""
    import pyarrow
    from pyarrow import parquet

    with tempfile.TemporaryFile() as unpacked:
        if not (isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO)):
            shutil.copyfileobj(file, unpacked, 1 << 20)
            unpacked.seek(0)
            file = unpacked
        number = 0
        try:
            with parquet.ParquetFile(file) as table:
                for batch in table.iter_batches(batch_size=PARQUET_BATCH):
                    for fields in _batch_rows(batch):
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
