"""How the tests run: as many beside each other as `make test` may, and with modules loaded quickly."""

from __future__ import annotations

import gc
import os

import pytest

#: A worker has PyTorch in memory, and its tests start processes that have it too: up to 3 GB together.
MOST = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One a core that this process may use: xdist itself counts those of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST)


def pytest_configure() -> None:
    """The modules of all tests stay: going through them as garbage takes half of the collection's time."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
