"""Checksums against known values and against each other."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from packtrain.storage.checksums import crc32c_bytes, crc32c_file, digests, sha256_file
from packtrain.storage.retry import RetryPolicy


def test_known_values(tmp_path: Path) -> None:
    # RFC 3720, B.4: 32 bytes of zeros have the CRC32C aa 36 91 8a (least significant byte first).
    (tmp_path / "zeros").write_bytes(bytes(32))
    assert base64.b64decode(crc32c_file(tmp_path / "zeros")).hex() == "8a9136aa"
    assert crc32c_bytes(b"123456789") == base64.b64encode(bytes.fromhex("e3069283")).decode()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1])
def test_one_read_gives_all(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    expected = (size, hashlib.sha256(data[:size]).hexdigest(), crc32c_bytes(data[:size]))
    assert digests(path) == expected == (size, sha256_file(path), crc32c_file(path))


def test_delays_double_have_jitter_and_an_end() -> None:
    slept: list[float] = []
    backoff = RetryPolicy(attempts=6, first_delay=1, max_delay=4, sleep=slept.append, clock=lambda: 0).start()
    assert [backoff.wait() for _ in range(6)] == [True] * 5 + [False]
    for delay, full in zip(slept, [1, 2, 4, 4, 4], strict=True):
        assert full / 2 <= delay <= full
    backoff.progressed()
    assert backoff.wait(retry_after=20)
    assert slept[-1] == 20


def test_the_deadline_ends_it() -> None:
    now = [0.0]
    policy = RetryPolicy(attempts=99, deadline=10, sleep=lambda s: None, clock=lambda: now[0])
    backoff = policy.start()
    assert backoff.wait()
    now[0] = 9.9
    assert not backoff.wait(retry_after=1)
