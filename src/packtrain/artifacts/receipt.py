"""The receipt: how an adapter came about, and what each of its files has to be.

Whoever holds an adapter and its receipt can tell that nothing was lost or changed on the way. It is
written last wherever an adapter is published: no receipt, not verified.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packtrain.errors import StorageError
from packtrain.rundir import timestamp
from packtrain.storage.checksums import digests

RECEIPT = "receipt.json"
RECEIPT_VERSION = 1
PACKAGES = (
    *("packtrain", "torch", "transformers", "peft", "safetensors", "tokenizers"),
    *("pyarrow", "numpy", "huggingface_hub", "google-cloud-storage"),
)


@dataclass(frozen=True)
class FileFacts:
    bytes: int
    sha256: str
    """Hex."""
    crc32c: str
    """Base64 of the big-endian value, as Google Cloud Storage states it."""


@dataclass(frozen=True)
class Receipt:
    run_id: str
    name: str
    files: dict[str, FileFacts]
    base: dict[str, Any]
    """``source``, ``identity``, ``revision``."""
    data: dict[str, Any]
    """The data report: sources with their fingerprints, rows, tokens, what was left out."""
    metrics: dict[str, Any]
    """``base_loss``, ``loss`` (validation, nats a token), ``train_loss``, ``train_runtime`` (seconds), …;
    null for what was not measured."""
    versions: dict[str, str]
    seed: int
    config_hash: str
    steps: int
    tokens: int
    created: str
    image: str | None = None
    """Reference of the container's image, with its digest; None for a training outside of one."""
    kind: str = "lora"
    """``adapter.kind`` of the run file: ``none`` for a whole model, every weight of which was trained."""
    version: int = RECEIPT_VERSION

    @property
    def what(self) -> str:
        """What was made, in a word."""
        return "model" if self.kind == "none" else "adapter"

    def to_json(self) -> bytes:
        """Raises ValueError for a metric that is NaN or infinite: such a run has no receipt."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, place: str = RECEIPT) -> Receipt:
        """Raises StorageError, naming ``place``, for what is no receipt. Unknown fields are passed over."""
        try:
            fields = json.loads(data)
            later = {"image", "kind"}
            known = {name: fields[name] for name in cls.__dataclass_fields__ if name not in later}
            known |= {name: fields[name] for name in later if name in fields}
            known["files"] = {
                str(name): FileFacts(**{key: facts[key] for key in FileFacts.__dataclass_fields__})
                for name, facts in fields["files"].items()
            }
        except KeyError as error:
            raise StorageError(f"{place}: is not a receipt: {error.args[0]} is missing") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise StorageError(f"{place}: is not a receipt ({error})") from error
        outside = [name for name in known["files"] if Path(name).name != name]
        if outside:
            raise StorageError(f"{place}: names a file outside its folder: {outside[0]}")
        return cls(**known)

    def problems(self, folder: Path) -> list[str]:
        """A sentence for each file in ``folder`` that is not what the receipt says; [] when all are."""
        return [
            f"{folder / name}: {problem}"
            for name, expected in self.files.items()
            if (problem := _problem(folder / name, expected))
        ]

    def verify(self, folder: Path) -> None:
        """Raises StorageError that names the first file that differs from the receipt."""
        problems = self.problems(folder)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise StorageError(problems[0] + more, hint="fetch the adapter again, or train it again")


def _problem(path: Path, expected: FileFacts) -> str | None:
    try:
        found = file_facts(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if found.bytes != expected.bytes:
        return f"has {found.bytes} bytes, the receipt says {expected.bytes}"
    if found != expected:
        which = "sha256" if found.sha256 != expected.sha256 else "crc32c"
        return f"{which} differs from the receipt's: the content was changed"
    return None


def file_facts(path: Path) -> FileFacts:
    """Size and checksums of a file, in one read."""
    size, sha256, crc32c = digests(path)
    return FileFacts(size, sha256, crc32c)


def build(
    folder: Path,
    *,
    run_id: str,
    name: str,
    base: Mapping[str, Any],
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seed: int,
    config_hash: str,
    steps: int,
    tokens: int,
    image: str | None = None,
    kind: str = "lora",
) -> Receipt:
    """The receipt of the adapter, or the model, in ``folder``: of all its files but a receipt."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != RECEIPT)
    return Receipt(
        run_id=run_id,
        name=name,
        files={path.name: file_facts(path) for path in paths},
        base=dict(base),
        data=dict(data),
        metrics=dict(metrics),
        versions=package_versions(),
        seed=seed,
        config_hash=config_hash,
        steps=steps,
        tokens=tokens,
        created=timestamp(),
        image=image,
        kind=kind,
    )


def package_versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a result; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
