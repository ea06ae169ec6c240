"""Wheels of what is installed here, and their lock file: so that an image is built without a network.

The image's own lock is for CUDA: gigabytes. For the tests the trainer's libraries of this Python go into
wheels again, with their true hashes, and pip installs them as it would the others. Of the largest, the wheel
has all but the files: it says where in the image they are, in a folder that is mounted there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from importlib import metadata
from pathlib import Path

from image_lock import wanted
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Headers of libraries: large, and nothing that is imported.
LEFT_OUT = re.compile(r"(?:^|/)__pycache__/|^(?:torch|pyarrow)/include/|^\.\.|^/")
#: Most of all bytes and files; to pack, send, unpack, compile and commit them took minutes, and tests
#: nothing of ours.
LARGEST = ("pyarrow", "sympy", "torch", "transformers")
#: Where the image has the files of these.
MOUNTED = "/libraries"


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


def wheel_of_mounted(distribution: metadata.Distribution, folder: Path, mounted: Path) -> Path:
    """A wheel that leads to :data:`MOUNTED`; the files themselves go into ``mounted``, as links."""
    for file in distribution.files or ():
        source, target = Path(file.locate()), mounted / str(file)
        compiled = "__pycache__/" in str(file)  # it would be compiled again in every container
        if (
            (LEFT_OUT.search(str(file)) and not compiled)
            or ".dist-info/" in str(file)
            or not source.is_file()
        ):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)
    name = re.sub(r"[-.]+", "_", distribution.name)
    about = f"{name}-{distribution.version}.dist-info"
    path = folder / f"{name}-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        wheel.writestr(f"{name}.pth", f"{MOUNTED}\n")
        wheel.writestr(f"{about}/METADATA", distribution.read_text("METADATA") or "")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


def make_wheelhouse(folder: Path, mounted: Path) -> str:
    """Fills ``folder`` with the wheels that the trainer needs, and ``mounted`` with the files of the largest;
    returns the wheels' lock file."""
    lines = []
    for name, distribution in sorted(closure(wanted()).items()):
        large = name in LARGEST
        path = wheel_of_mounted(distribution, folder, mounted) if large else wheel_of(distribution, folder)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{name}=={distribution.version} --hash=sha256:{sha256}\n")
    return "".join(lines)
