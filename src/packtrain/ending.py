"""How a process of ours ends: with its exit code, whatever its libraries left running."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def end_process(code: int, *, tidy: bool = True) -> NoReturn:
    """Run what is registered with :mod:`atexit`, write out what was printed, and end with ``code``.

    The interpreter is not taken down. A thread of a library (gloo's, the autograd engine's) that wants
    it meanwhile is unwound by CPython through C++ code that allows no unwinding, and the process aborts:
    a finished rank would end with SIGABRT (https://github.com/python/cpython/issues/87135).

    ``tidy``: False where somebody is impatient; handlers wait for what they tidy up.
    """
    if tidy and all(thread is threading.main_thread() for thread in threading.enumerate()):
        # Not beside a thread of ours that was left behind: it may use what a handler takes away.
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # a broken pipe, closed, none at all
            stream.flush()
    os._exit(code)
