"""The places that storage is tested on: a folder, the bucket stand-in, the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standins.bucket import bucket_server  # noqa: F401
from standins.fake_gcs import fake_gcs  # noqa: F401

from packtrain.storage.base import Storage
from packtrain.storage.gcs import GcsStorage
from packtrain.storage.local import LocalStorage
from packtrain.storage.retry import RetryPolicy

#: So that a test of "after retries" takes no time.
QUICK = RetryPolicy(attempts=4, deadline=5.0, first_delay=0.001, max_delay=0.01)
QUANTUM = 256 * 1024


def connect(uri: str) -> GcsStorage:
    """Small files already go by the resumable protocol, in chunks of 256 KiB."""
    return GcsStorage(uri, retries=QUICK, single_request=QUANTUM, chunk=QUANTUM)


@pytest.fixture
def gcs(bucket_server: Any) -> Iterator[GcsStorage]:  # noqa: F811
    storage = connect(bucket_server.uri("some/prefix"))
    yield storage
    storage.close()


@pytest.fixture(params=["folder", "stand-in", "emulator"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield LocalStorage(tmp_path / "store")
        return
    server = request.getfixturevalue("bucket_server" if request.param == "stand-in" else "fake_gcs")
    bucket = connect(server.uri("some/prefix"))
    yield bucket
    bucket.close()
