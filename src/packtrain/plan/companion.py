"""A second process that observes beside this one, so that a plan takes two cores where there are two.

A trace is two observations (:func:`packtrain.plan.memory.trace`) that know nothing of each other; what is
asked of either process, and so the answer, is the same each time. The second one is forked from the first,
which has imported PyTorch and transformers by then: it costs nothing. Where forking is not safe or there is
one core, this process does both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from packtrain.plan.graph import Observed
    from packtrain.plan.setup import Setup

#: A set-up, and with how many of its layers a step of it is traced.
Traced = tuple["Setup", int]


class Companion:
    """The second process. One question at a time."""

    def __init__(self) -> None:
        context = get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()

    def both(self, few: Traced, more: Traced) -> tuple[Observed, Observed]:
        """Two steps. Errors: those of :func:`packtrain.plan.graph.observe`."""
        from packtrain.plan.graph import observe

        try:
            self._pipe.send(more)
        except OSError:  # it was killed
            return observe(*few), observe(*more)
        try:
            here = observe(*few)
        except Exception:
            self._answer()
            raise
        there = self._answer()
        # What it could not do this process tries itself, and says why in its own words.
        return here, there or observe(*more)

    def _answer(self) -> Observed | None:
        try:
            found: Observed | None = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, other_end: Connection) -> None:
    import signal

    import torch

    from packtrain.plan.graph import observe

    other_end.close()  # else it would never hear that who asks is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks hears it and closes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # a parent's pool of threads does not live on in its child
    while True:
        try:
            setup, layers = pipe.recv()
        except EOFError:
            return
        try:
            found: Observed | None = observe(setup, layers)
        except Exception:  # noqa: BLE001 - whatever it is, the parent tries it and says so
            found = None
        try:
            pipe.send(found)
        except OSError:
            return


class _Place:
    """Where the companion of this process is, from its first question on."""

    wanted = False
    companion: Companion | None = None


_place = _Place()


@contextmanager
def companion() -> Iterator[None]:
    """Traces inside use a second process, where that helps."""
    if _place.wanted or not _helps():
        yield
        return
    _place.wanted = True
    try:
        yield
    finally:
        _place.wanted = False
        found, _place.companion = _place.companion, None
        if found is not None:
            found.close()


def observe_both(few: Traced, more: Traced) -> tuple[Observed, Observed]:
    """Two steps. Errors: :class:`ConfigError`."""
    from packtrain.plan.graph import observe

    if not _place.wanted:
        return observe(*few), observe(*more)
    if _place.companion is None:
        _place.companion = Companion()
    return _place.companion.both(few, more)


def _helps() -> bool:
    """Whether there is a second core, and a process can be forked: not with a GPU in use."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        return False
    torch = sys.modules.get("torch")
    return torch is None or not torch.cuda.is_initialized()
