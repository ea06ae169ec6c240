"""Renews the lock file of the image: what pip chooses for the trainer on Linux with CUDA, with hashes.

``make lock`` runs this with the Python of the image (3.11, x86-64). It asks PyPI, downloads a few hundred
megabytes, and installs nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "src" / "packtrain" / "gcp" / "image" / "requirements.lock"
HEAD = """\
# What the image holds besides packtrain: Python 3.11 on Linux x86-64, PyTorch for CUDA from PyPI.
# Versions as in constraints.txt; `make lock` renews this file.
"""


def wanted() -> list[str]:
    """The requirements of the trainer: packtrain's own, and those of GGUF bases and bases in 4 bits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["gguf"], *extras["qlora"]]


def lock_text(report: dict[str, Any]) -> str:
    """A requirements file with hashes from pip's installation report."""
    lines = []
    for each in report["install"]:
        name, version = each["metadata"]["name"].lower().replace("_", "-"), each["metadata"]["version"]
        sha256 = each["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{sha256}\n")
    return HEAD + "".join(sorted(lines))


def main() -> int:
    if sys.version_info[:2] != (3, 11) or os.uname().machine != "x86_64":
        print("the image has Python 3.11 on x86-64: run this with such a Python", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--index-url", "https://pypi.org/simple"]
        command += ["--report", str(report), "-c", str(ROOT / "constraints.txt"), *wanted()]
        # No configuration of this machine: what is locked is what everybody finds on PyPI.
        subprocess.run(command, check=True, env=os.environ | {"PIP_CONFIG_FILE": os.devnull})
        LOCK.write_text(lock_text(json.loads(report.read_bytes())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
