"""PyTorch and transformers imported in less than half of the time.

Their modules are hundreds of thousands of objects that stay. Python's collector goes through those that are
there already again and again while more come, and once more at the end of the process: 1.7 of 4.5 seconds,
of each rank, at each start. And where a process compiles nothing and is alone, a third of the modules is not
needed (:mod:`packtrain.run.lean`).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from packtrain.own import is_own_process


@contextmanager
def heavy_imports(*, compiling: bool = False) -> Iterator[None]:
    """Around the imports: nothing is collected, and afterwards what is there is left out of collections.

    In a process of packtrain's own what is not needed is left out, unless torch.compile will be used
    (``compiling``). A process that has transformers already is left as it is.
    """
    if "transformers" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        with _lean_imports() if is_own_process() and not compiling else nullcontext():
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _lean_imports() -> Iterator[None]:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        yield
        return
    from packtrain.run.lean import lean_imports

    with lean_imports():
        yield
