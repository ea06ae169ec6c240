"""Wheels of what is installed here, and their lock file: so that an image is built without a network.

The image's own lock is for CUDA: gigabytes. For the tests the trainer's libraries of this Python go into
wheels again, with their true hashes, and pip installs them as it would the others.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from importlib import metadata
from pathlib import Path

from image_lock import wanted
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Headers of libraries: large, and nothing that is imported.
LEFT_OUT = re.compile(r"(?:^|/)__pycache__/|^(?:torch|pyarrow)/include/|^\.\.|^/")


def closure(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """The installed distributions that ``requirements`` need, by canonical name."""
    found: dict[str, metadata.Distribution] = {}
    pending = [(Requirement(line), frozenset[str]()) for line in requirements]
    while pending:
        requirement, extras = pending.pop()
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
            continue
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found[name] = metadata.distribution(name)
        pending += [(Requirement(line), frozenset(requirement.extras)) for line in found[name].requires or ()]
    return found


def wheel_of(distribution: metadata.Distribution, folder: Path) -> Path:
    """The installed files of ``distribution`` as a wheel in ``folder``."""
    about = distribution.read_text("WHEEL")
    assert about, distribution.name
    tags = [tag.split("-") for tag in re.findall(r"^Tag: (\S+)", about, re.MULTILINE)]
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    name = re.sub(r"[-.]+", "_", distribution.name)
    path = folder / f"{name}-{distribution.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        for file in distribution.files or ():
            if not LEFT_OUT.search(str(file)) and Path(file.locate()).is_file():
                wheel.write(Path(file.locate()), str(file))
    return path


def make_wheelhouse(folder: Path) -> str:
    """Fills ``folder`` with the wheels that the trainer needs; returns their lock file."""
    lines = []
    for name, distribution in sorted(closure(wanted()).items()):
        path = wheel_of(distribution, folder)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{name}=={distribution.version} --hash=sha256:{sha256}\n")
    return "".join(lines)
