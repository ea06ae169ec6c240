"""Which files a source means: a path, a folder, a glob, ``gs://…``, a data set of the hub, or a list.

``open_source`` finds (and, from afar, downloads) the files; the rows are read when it is iterated.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from packtrain.data.file_hashes import file_sha256, sampled_sha256
from packtrain.data.in_place import bucket_in_place, hub_in_place
from packtrain.data.ranged import Afar
from packtrain.data.readers import Cursor, allowed_files, kind_of, read_file
from packtrain.data.remote import HubId, bucket_files, hub_files
from packtrain.data.rows import Item
from packtrain.errors import ConfigError, DataError

#: Metadata that the `datasets` library writes beside data, and does not read as data either.
NOT_DATA = frozenset(
    {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
)
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class DataFile:
    path: Path
    shown: str
    """The name in places and messages: relative to the current folder where it is below it."""
    revision: str | None = None
    """The commit, for a file of the hub."""
    afar: Afar | None = None
    """Where it is read from, when it does not lie here; ``path`` is then only its name."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.afar.size if self.afar else self.path.stat().st_size

    @cached_property
    def identity(self) -> str:
        """Almost surely another one where the content is; a quarter of a megabyte is read for it."""
        return self.afar.identity if self.afar else f"sampled sha256 {sampled_sha256(self.path)}"

    def rows(self, cursor: Cursor | None = None) -> Generator[Item, None, None]:
        """Errors: those of :func:`~.readers.read_file`."""
        return read_file(self.path, self.shown, cursor=cursor, opener=self.afar.open if self.afar else None)


@dataclass(frozen=True)
class Source:
    """Rows in a fixed order: the sources as listed, the files of each sorted, the rows as they stand.

    Iterating yields :class:`~.rows.Row` and :class:`~.rows.BadRow` and may be done again. Errors
    while iterating: those of :func:`~.readers.read_file`.
    """

    source: str | list[str]
    files: tuple[DataFile, ...]
    limit: int | None = None
    in_place: bool = False
    """Files are read where they lie, each as far as it is needed."""

    def __iter__(self) -> Iterator[Item]:
        with closing(self._rows()) as rows:
            yield from islice(rows, self.limit)

    def _rows(self) -> Generator[Item, None, None]:
        for file in self.files:
            with closing(file.rows()) as rows:
                yield from rows

    @property
    def name(self) -> str:
        """As the run file calls it."""
        return self.source if isinstance(self.source, str) else ", ".join(self.source)

    @property
    def revision(self) -> str | None:
        """The commit of the one hub data set that this is; None for files and for several."""
        commits = {file.revision for file in self.files}
        return commits.pop() if len(commits) == 1 else None

    @cached_property
    def description(self) -> dict[str, Any]:
        """``source``, ``revision``, ``fingerprint`` and ``files`` (``name``, ``bytes``, ``sha256``).

        Reads every file once, unless it is large and known; ``in_place`` a file has its ``identity`` in
        place of the checksum. For the receipt and the model card.
        """
        files = [
            {"name": file.shown, "bytes": file.size}
            | ({"identity": file.identity} if self.in_place else {"sha256": file_sha256(file.path)})
            for file in self.files
        ]
        return {
            "source": self.source,
            "revision": self.revision,
            "fingerprint": _digest(files),
            "files": files,
        }

    def fingerprint(self) -> str:
        """SHA-256, in hex, over the files' contents in their order: not over names or places."""
        return str(self.description["fingerprint"])


def open_source(
    source: str | list[str],
    *,
    revision: str | None = None,
    limit: int | None = None,
    in_place: bool = False,
) -> Source:
    """Find the files of ``source``; ``revision`` is for data sets of the hub, ``limit`` counts rows.

    ``in_place``: nothing is downloaded; what lies elsewhere is read there, and only as far as it is needed.

    Errors: ConfigError (not there, or no known kind of source), DataError (no data file in it),
    and for hub and bucket AccessError, UnavailableError, StorageError.
    """
    names = [source] if isinstance(source, str) else source
    files = [file for name in names for file in _files(name, revision, in_place)]
    return Source(source, tuple(files), limit, in_place)


def local_bytes(source: str | list[str]) -> int:
    """Of the files that lie on this machine; nothing is asked or downloaded, and what is wrong is 0."""
    size = 0
    for name in [source] if isinstance(source, str) else source:
        if not name.startswith("gs://") and (Path(name).expanduser().exists() or _GLOB.search(name)):
            with suppress(ConfigError, DataError, OSError):
                size += sum(file.size for file in _files(name, None, in_place=True))
    return size


def _files(name: str, revision: str | None, in_place: bool) -> list[DataFile]:
    if name.startswith("gs://"):
        if in_place:
            return [DataFile(Path(uri), uri, afar=afar) for uri, afar in bucket_in_place(name, is_data_file)]
        return [DataFile(path, uri) for path, uri in bucket_files(name, is_data_file)]
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path, name)
    if path.exists():
        if kind_of(path.name) is None:
            raise DataError(
                f"{name}: is not a data file by its extension", hint=f"read are {allowed_files()}"
            )
        return [_local(path)]
    if _GLOB.search(name):
        return _matching(name)
    identifier = HubId.parse(name)
    if identifier is None or _looks_like_path(name):
        raise ConfigError(_not_there(path, name))
    return _of_hub(identifier, revision, in_place)


def _of_hub(identifier: HubId, revision: str | None, in_place: bool) -> list[DataFile]:
    repository = identifier.repository
    if not in_place:
        found, commit = hub_files(identifier, revision, is_data_file)
        return [DataFile(local, f"{repository}/{inside}", commit) for local, inside in found]
    there, commit = hub_in_place(identifier, revision, is_data_file)
    return [
        DataFile(where, f"{repository}/{inside}", commit)
        if isinstance(where, Path)
        else DataFile(Path(inside), f"{repository}/{inside}", commit, where)
        for where, inside in there
    ]


def is_data_file(name: str) -> bool:
    """Whether a folder's file, by its path below the folder, is data: hidden and metadata files are not."""
    parts = name.split("/")
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and parts[-1] not in NOT_DATA and kind_of(parts[-1]) is not None


def _in_folder(folder: Path, name: str) -> list[DataFile]:
    below = [path for path in folder.rglob("*") if path.is_file()]
    chosen = sorted(path for path in below if is_data_file(path.relative_to(folder).as_posix()))
    if not chosen:
        raise DataError(f"{name}: has no data file in it", hint=f"read are {allowed_files()}")
    return [_local(path) for path in chosen]


def _matching(pattern: str) -> list[DataFile]:
    path = Path(pattern).expanduser()
    # Path.glob wants a pattern that is relative to its folder.
    found = sorted(m for m in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if m.is_file())
    if not found:
        raise ConfigError(f"{pattern}: no file matches")
    chosen = [path for path in found if is_data_file(path.name)]
    if not chosen:
        raise DataError(f"{pattern}: matches {len(found)} files, none of them a data file",
                        hint=f"read are {allowed_files()}")  # fmt: skip
    return [_local(path) for path in chosen]


def _local(path: Path) -> DataFile:
    absolute, here = path.absolute(), Path.cwd()
    return DataFile(absolute, str(absolute.relative_to(here) if absolute.is_relative_to(here) else path))


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or kind_of(name) is not None


def _not_there(path: Path, name: str) -> str:
    if not _looks_like_path(name) and ("://" in name or "/" not in name):
        return f"{name}: is neither a file here, nor a data set of the hub (OWNER/NAME), nor gs://BUCKET/…"
    folder = path.parent
    if not folder.is_dir():
        return f"{name}: is not there, nor is the folder {folder}"
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], n=2)
    return f"{name}: is not there" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _digest(files: list[dict[str, Any]]) -> str:
    contents = [[file["bytes"], file.get("sha256") or file["identity"]] for file in files]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()
