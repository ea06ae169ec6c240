"""kubectl in several versions, where they are installed: beside gcloud, which brings them, or on PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SDK = "/usr/lib/google-cloud-sdk/bin"
#: What users have, from the oldest that is tried to the newest.
VERSIONS = ("1.27", "1.30", "1.33")


def find_kubectl(version: str) -> Path | None:
    found = shutil.which(f"kubectl.{version}", path=os.pathsep.join((os.environ.get("PATH", ""), SDK)))
    return Path(found) if found else None


def need_kubectl(version: str) -> Path:
    """The program; the test is skipped by name where it is not there."""
    found = find_kubectl(version)
    if found is None:
        pytest.skip(f"kubectl.{version} is not installed (gcloud components install kubectl brings it)")
    return found
