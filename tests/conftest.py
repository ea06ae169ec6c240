"""How many tests run beside each other in `make test`; `pytest` alone runs one after another."""

from __future__ import annotations

import os

import pytest

#: A worker has PyTorch in memory, and its tests start processes that have it too: up to 3 GB together.
MOST = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One a core that this process may use: xdist itself counts those of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST)
