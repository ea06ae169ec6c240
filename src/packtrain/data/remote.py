"""Data files from afar: data sets of the Hugging Face hub, and objects in a bucket.

Both end as files in a cache, which the same readers read: the hub's in its own cache, a bucket's
in ``$PACKTRAIN_CACHE`` (default ``~/.cache/packtrain``) by the object's generation.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from packtrain.data.readers import kind_of
from packtrain.data.rows import shown_names
from packtrain.errors import ConfigError, DataError
from packtrain.storage import ObjectInfo, Storage, open_storage
from packtrain.storage.cache import cache_folder

if TYPE_CHECKING:
    from packtrain.hub.snapshot import Snapshot

IsDataFile = Callable[[str], bool]

#: What data sets call their splits in file names; the same words as the `datasets` library.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::(?:([\w.-]+):)?([\w.-]+))?")


@dataclass(frozen=True)
class HubId:
    """``OWNER/NAME``, ``OWNER/NAME:SPLIT`` or ``OWNER/NAME:CONFIG:SPLIT``."""

    repository: str
    config: str | None = None
    split: str = "train"

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        match = _HUB_ID.fullmatch(text)
        return cls(match[1], match[2], match[3] or "train") if match else None


def hub_files(
    identifier: HubId, revision: str | None, is_data_file: IsDataFile
) -> tuple[list[tuple[Path, str]], str]:
    """The files of a split as (local path, path in the repository), and the commit they are of.

    Errors: ConfigError (revision, config or split unknown), DataError (no data file), AccessError,
    UnavailableError.
    """
    from packtrain.hub.snapshot import download

    card, chosen, _ = hub_choice(identifier, revision, is_data_file)
    patterns = [glob.escape(name) for name in chosen]
    data = download(identifier.repository, card.commit, allow=patterns, repo_type="dataset")
    return [(data.folder / name, name) for name in chosen], card.commit


def hub_choice(
    identifier: HubId, revision: str | None, is_data_file: IsDataFile
) -> tuple[Snapshot, list[str], dict[str, int]]:
    """The card's snapshot, the split's files by their paths in it, and the bytes of each file there.

    Errors: those of :func:`hub_files`.
    """
    from packtrain.hub.snapshot import download

    repository = identifier.repository
    card = download(repository, revision, allow=["README.md", ".gitattributes"], repo_type="dataset")
    sizes = _file_list(repository, card.commit)
    names = sorted(filter(is_data_file, sizes))
    return card, files_of_split(names, _card_configs(card.folder / "README.md"), identifier), sizes


def _file_list(repository: str, commit: str) -> dict[str, int]:
    """The paths in a commit, and their bytes: from the cache, where every download notes them."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    from packtrain.hub.access import hub_errors

    try:
        files = get_cached_repo_tree(repository, repo_type="dataset", revision=commit)
    except CachedRepoTreeNotFoundError:  # a cache that an older huggingface_hub began
        with hub_errors(repository, repo_type="dataset", revision=commit):
            snapshot_download(repository, repo_type="dataset", revision=commit, allow_patterns=["README.md"])
            files = get_cached_repo_tree(repository, repo_type="dataset", revision=commit)
    return {file.path: file.size for file in files}


def _card_configs(card: Path) -> list[dict[str, Any]]:
    """``configs`` in the data set card's YAML; none where there is no card.

    https://huggingface.co/docs/hub/datasets-manual-configuration
    """
    import yaml
    from huggingface_hub import metadata_load

    try:
        metadata = (metadata_load(card) or {}) if card.exists() else {}
    except (ValueError, yaml.YAMLError):  # a broken card tells nothing; the names of the files may
        return []
    configs = metadata.get("configs")
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def files_of_split(names: Sequence[str], configs: Sequence[dict[str, Any]], wanted: HubId) -> list[str]:
    """Which data files of a repository hold a split: as its card says, else by the words in names.

    Where nothing tells splits apart, everything is ``train``. Of several kinds of file the most
    frequent is taken, since the others are most likely the same rows again.
    """
    if not names:
        raise DataError(f"{wanted.repository}: has no data file that packtrain reads")
    splits = _splits_by_card(names, configs, wanted) or _splits_by_name(names)
    if wanted.split not in splits:
        raise ConfigError(
            f"{wanted.repository}: has no split {wanted.split}; it has {shown_names(sorted(splits))}",
            hint=f"name one as {wanted.repository}:SPLIT",
        )
    found = splits[wanted.split]
    if not found:
        raise DataError(f"{wanted.repository}: split {wanted.split} has no data file that packtrain reads")
    kinds = Counter(kind_of(name) for name in found)
    kind = max(kinds, key=lambda kind: (kinds[kind], str(kind)))
    return sorted(name for name in found if kind_of(name) == kind)


def _splits_by_card(
    names: Sequence[str], configs: Sequence[dict[str, Any]], wanted: HubId
) -> dict[str, list[str]] | None:
    by_name = {str(config.get("config_name", "default")): config for config in configs}
    config = by_name.get(wanted.config or "default")
    if config is None and len(by_name) == 1 and wanted.config is None:
        config = next(iter(by_name.values()))
    if config is None:
        if by_name or wanted.config:
            have = shown_names(sorted(by_name)) if by_name else "none by name"
            raise ConfigError(
                f"{wanted.repository}: which of its configurations? It has {have}",
                hint=f"name one as {wanted.repository}:CONFIG:SPLIT",
            )
        return None
    folder = str(PurePosixPath(str(config.get("data_dir") or "")))
    splits: dict[str, list[str]] = {}
    for split, patterns in _data_files(config.get("data_files")):
        full = [str(PurePosixPath(folder, pattern)) for pattern in patterns]
        found = [name for name in names if any(glob_matches(pattern, name) for pattern in full)]
        splits[split] = splits.get(split, []) + found
    if splits:
        return splits
    return _splits_by_name([name for name in names if folder == "." or name.startswith(f"{folder}/")])


def _data_files(value: Any) -> Iterable[tuple[str, list[str]]]:
    """The spellings that a card may use: a pattern, a list of them, split → patterns, or
    ``{split, path}`` objects."""
    match value:
        case str():
            yield "train", [value]
        case dict():
            for split, patterns in value.items():
                yield str(split), [patterns] if isinstance(patterns, str) else list(patterns)
        case list():
            for item in value:
                if isinstance(item, dict):
                    path = item.get("path") or []
                    yield str(item.get("split", "train")), [path] if isinstance(path, str) else list(path)
                else:
                    yield "train", [str(item)]


def glob_matches(pattern: str, name: str) -> bool:
    """Whether a path matches: ``*`` stays within a folder, ``**`` is any number of folders."""
    return _parts_match(pattern.split("/"), name.split("/"))


def _parts_match(pattern: Sequence[str], name: Sequence[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return _parts_match(pattern[1:], name) or (bool(name) and _parts_match(pattern, name[1:]))
    return bool(name) and fnmatch.fnmatchcase(name[0], pattern[0]) and _parts_match(pattern[1:], name[1:])


def _splits_by_name(names: Sequence[str]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for split, words in SPLIT_WORDS.items():
        word = re.compile(rf"(?:^|[-._ /0-9])(?:{'|'.join(words)})(?:[-._ /0-9]|$)", re.IGNORECASE)
        found = [name for name in names if word.search(name)]
        if found:
            splits[split] = found
    return splits or {"train": list(names)}


def bucket_files(uri: str, is_data_file: IsDataFile) -> list[tuple[Path, str]]:
    """An object, the data files below a prefix, or those that a glob matches: (local path, URI).

    Each is copied once a generation into the cache. Errors: those of :func:`bucket_choice`.
    """
    base, rest, wild = parsed_bucket(uri)
    files = []
    with closing(open_storage(base)) as storage:
        for info in bucket_choice(storage, uri, rest, wild, is_data_file):
            full = f"{base}/{info.name}"
            key = hashlib.sha256(f"{full}#{info.generation}#{info.crc32c}".encode()).hexdigest()[:24]
            local = cache_folder() / "data" / key / PurePosixPath(info.name).name
            if not local.exists():
                local.parent.mkdir(parents=True, exist_ok=True)
                storage.download(info.name, local)
            files.append((local, full))
    return files


def parsed_bucket(uri: str) -> tuple[str, list[str], bool]:
    """The prefix that is fixed, what is looked for below it, and whether that is a glob."""
    bucket, _, path = uri.removeprefix("gs://").partition("/")
    parts = path.strip("/").split("/")
    wild = next((index for index, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    fixed, rest = (parts, []) if wild is None else (parts[:wild], parts[wild:])
    if wild is None and kind_of(parts[-1]):
        fixed, rest = parts[:-1], parts[-1:]
    return "/".join(("gs:/", bucket, *filter(None, fixed))), rest, wild is not None


def bucket_choice(
    storage: Storage, uri: str, rest: list[str], wild: bool, is_data_file: IsDataFile
) -> list[ObjectInfo]:
    """The data objects of ``uri``, by name.

    Errors: ConfigError (nothing there), DataError (no data file), and those of
    :class:`~packtrain.storage.base.Storage`.
    """
    if rest and not wild:
        info = storage.stat(rest[0])
        objects = [info] if info else []
    else:
        pattern = "/".join(rest) or "**"
        objects = [info for info in storage.list() if glob_matches(pattern, info.name)]
    if not objects:
        raise ConfigError(f"{uri}: nothing is there")
    chosen = sorted((info for info in objects if is_data_file(info.name)), key=lambda info: info.name)
    if not chosen:
        raise DataError(f"{uri}: has no data file among {len(objects)} objects")
    return chosen
