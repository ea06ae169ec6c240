"""What goes into the image, and the hash that its tag is made from.

The build context is made from the installed package: no repository is needed, and what runs in the
cluster is what runs here, to the byte.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from packtrain import __version__
from packtrain.errors import ConfigError

#: What the image is built on. Without a digest: the build resolves it, and the image's label keeps it.
DEFAULT_BASE = "docker.io/library/python:3.11-slim-bookworm"
DOCKERFILE, LOCK, CLOUD_BUILD = "Dockerfile", "requirements.lock", "cloudbuild.yaml"
WHEEL = f"packtrain-{__version__}-py3-none-any.whl"
#: Of the package's metadata, what pip needs; the rest (the README, extras) changes nothing that runs.
_HEADERS = ("Name", "Version", "Requires-Python", "Requires-Dist")
_INFO = f"packtrain-{__version__}.dist-info"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Context:
    """A build context: the files of its folder, and their hash."""

    files: Mapping[str, bytes]
    content: str
    """SHA-256, in hex, over Dockerfile, lock, packtrain's files and the base's name."""

    @property
    def tag(self) -> str:
        return f"{__version__}-{self.content[:12]}"

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def context(base: str = DEFAULT_BASE) -> Context:
    """The build context of this packtrain on ``base``. Pure but for reading the installed package.

    Errors: :class:`ConfigError` where packtrain runs without having been installed.
    """
    package = dict(package_files())
    data = resources.files("packtrain.gcp.image")
    files = {name: (data / name).read_bytes() for name in (DOCKERFILE, LOCK, CLOUD_BUILD)}
    hashed = {name: files[name] for name in (DOCKERFILE, LOCK)} | package | {"base": base.encode()}
    return Context(files | {WHEEL: wheel(package)}, content_hash(hashed))


def content_hash(files: Mapping[str, bytes]) -> str:
    """SHA-256 over names and contents; each with its length, so that no two sets of files are one text."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        for part in (name.encode(), data):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def package_files() -> Iterator[tuple[str, bytes]]:
    """packtrain's own files, and the metadata that pip needs, by their names in a wheel."""
    yield from _walk(resources.files("packtrain"), "packtrain")
    try:
        installed = metadata.distribution("packtrain")
    except metadata.PackageNotFoundError:
        raise ConfigError(
            "packtrain has not been installed, so it cannot be put into an image",
            hint="pip install packtrain, or `pip install -e .` in its repository",
        ) from None
    told = [(name, value) for name in _HEADERS for value in installed.metadata.get_all(name) or ()]
    headers = [f"{name}: {value}" for name, value in told if "extra ==" not in value]
    yield f"{_INFO}/METADATA", _lines(["Metadata-Version: 2.1", *headers])
    scripts = sorted(
        f"{each.name} = {each.value}" for each in installed.entry_points.select(group="console_scripts")
    )
    yield f"{_INFO}/entry_points.txt", _lines(["[console_scripts]", *scripts])


def wheel(files: Mapping[str, bytes]) -> bytes:
    """A wheel of ``files``, the same bytes each time."""
    about = {
        f"{_INFO}/WHEEL": _lines(
            ["Wheel-Version: 1.0", "Generator: packtrain", "Root-Is-Purelib: true", "Tag: py3-none-any"]
        )
    }
    held = dict(sorted(files.items())) | about
    record = f"{_INFO}/RECORD"
    rows = [f"{name},{_digest(data)},{len(data)}" for name, data in held.items()]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in (held | {record: _lines([*rows, f"{record},,"])}).items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, data)
    return archive.getvalue()


def _digest(data: bytes) -> str:
    """As a wheel's RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _lines(lines: Iterator[str] | list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _walk(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        path = f"{name}/{each.name}"
        if each.is_dir():
            if each.name != "__pycache__":
                yield from _walk(each, path)
        elif not each.name.endswith((".pyc", ".pyo")):
            yield path, each.read_bytes()
