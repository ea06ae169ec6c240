"""Whether this process is packtrain's own: then nobody else misses what its imports leave out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ours = False


def own_process() -> None:
    """Said at the beginning of a program of packtrain's, and never where somebody else's uses packtrain."""
    global _ours  # noqa: PLW0603  (a fact about the process, said once)
    _ours = True


def is_own_process() -> bool:
    return _ours


@contextmanager
def not_there(package: str) -> Iterator[None]:
    """Around what imports ``package`` wherever it is installed: in a process of ours without use for it.

    Where it has been imported already, it has its use.
    """
    if not _ours or package in sys.modules:
        yield
        return
    # How Python is told that it is not there.
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
