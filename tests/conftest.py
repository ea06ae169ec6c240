"""How the tests run: as many beside each other as `make test` may, and with modules loaded quickly."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator

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
    hear_signals()


def hear_signals() -> None:
    """Who starts the tests in the background may have made them deaf, and what they start would be, too."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) == signal.SIG_IGN:
                interrupt = number == signal.SIGINT
                signal.signal(number, signal.default_int_handler if interrupt else signal.SIG_DFL)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``PACKTRAIN_CACHE`` for the tests of this process, unless it is said."""
    with pytest.MonkeyPatch.context() as patch:
        if "PACKTRAIN_CACHE" not in os.environ:
            patch.setenv("PACKTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
