"""A run in somebody else's process: what it changes there is put back, and one goes on at a time."""

from __future__ import annotations

import gc
import importlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from packtrain.errors import ConflictError, PacktrainError
from packtrain.run.outcome import of_the_machine

_turn = threading.Lock()


@contextmanager
def sentences() -> Iterator[None]:
    """An error shows its hint, and what a machine causes (a full disk, no memory) is one of ours."""
    try:
        yield
    except PacktrainError as error:
        _show_hint(error)
        raise
    except Exception as error:
        known = of_the_machine(error)
        if known is None:
            raise
        _show_hint(known)
        raise known from error


def _show_hint(error: PacktrainError) -> None:
    note = f"hint: {error.hint}"
    if error.hint and note not in getattr(error, "__notes__", ()):
        error.add_note(note)


@contextmanager
def alone() -> Iterator[None]:
    """Entered by one thread at a time: a run's lock tells processes apart, and torch's threads are shared.

    Errors: :class:`ConflictError` while another thread is inside.
    """
    if not _turn.acquire(blocking=False):
        raise ConflictError(
            "packtrain plans or trains in this process already, in another thread",
            hint="wait for its end, or use a process of its own",
        )
    try:
        yield
    finally:
        _turn.release()


@contextmanager
def put_back() -> Iterator[None]:
    """What work of ours changes for the whole process is afterwards as it was: torch's number of threads and
    random numbers, and the C library's way with freed memory.
    """
    from packtrain.run.heavy import heavy_imports

    with heavy_imports(frozen=False):
        import torch

        from packtrain.model.freed import give_back_freed_memory

        with warnings.catch_warnings():
            # Libraries import it for bars that are not shown; in a notebook it asks for widgets then.
            warnings.filterwarnings("ignore", message="IProgress not found")
            importlib.import_module("tqdm.auto")

    threads = torch.get_num_threads()
    # Layers are made with random weights before they are read; which numbers those are matters to nobody.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(threads)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back_freed_memory()
