"""A run in somebody else's process: what it changes there is put back, and one goes on at a time."""

from __future__ import annotations

import gc
import importlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from packtrain.errors import BugError, ConflictError, PacktrainError
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


class put_back:
    """Work of ours finds torch as in a new process, and leaves it, and the process's memory, as it was.

    A notebook's user may have switched gradients off, or another precision on, hours ago. A notebook also
    keeps the last error, and with its frames the model, so that the next run had no room: no error of ours
    has frames of ours afterwards, but a bug has, for whoever looks for it.
    """

    def __enter__(self) -> None:
        from packtrain.run.heavy import heavy_imports

        frozen = gc.get_freeze_count()
        with heavy_imports():
            import torch

            with warnings.catch_warnings():
                # Libraries import it for bars that are not shown; in a notebook it asks for widgets then.
                warnings.filterwarnings("ignore", message="IProgress not found")
                importlib.import_module("tqdm.auto")

        with ExitStack() as stack:
            stack.callback(_free_memory)
            if not frozen:  # else it is the caller's own doing
                stack.callback(gc.unfreeze)
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
            device = torch.get_default_device()
            if device.type != "cpu":
                stack.callback(torch.set_default_device, device)
                torch.set_default_device(None)
            # Layers are made with random weights before they are read; which those are matters to nobody.
            devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
            stack.enter_context(torch.random.fork_rng(devices))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            self._stack = stack.pop_all()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, PacktrainError | KeyboardInterrupt):
            _forget(error)
        self._stack.close()


def _forget(error: BaseException) -> None:
    """The sentence of an error of ours says all that its causes would; a bug's are kept."""
    if isinstance(error, PacktrainError) and not isinstance(error, BugError):
        error.__cause__, error.__suppress_context__ = None, True
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            pending += [each.__cause__, each.__context__]


def _free_memory() -> None:
    import torch

    from packtrain.model.freed import give_back_freed_memory

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_freed_memory()
