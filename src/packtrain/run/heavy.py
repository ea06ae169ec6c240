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

from packtrain.own import is_own_process, not_there

#: oneDNN, and PyTorch's layer over it, keep what they made for each of the last 1024 shapes of a product:
#: half a megabyte together, and packed sequences are of as many lengths: half a gigabyte. One pass has far
#: fewer shapes than this, and a length does not come again so soon that it is worth its memory until then.
#: https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html
SHAPES_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}


@contextmanager
def heavy_imports(*, lean: bool = True) -> Iterator[None]:
    """Around the imports: nothing is collected, and afterwards what is there is left out of collections.

    ``lean``: in a process of packtrain's own, what only torch.compile and several processes need is left out.
    A process that has transformers already is left as it is.
    """
    if "transformers" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        with _own_imports(lean) if is_own_process() else nullcontext():
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _own_imports(lean: bool) -> Iterator[None]:
    for name, value in SHAPES_KEPT.items():  # read once, by libraries that come now
        os.environ.setdefault(name, value)
    from packtrain.run.lean import lean_imports
    from packtrain.run.names import found_quickly

    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    with found_quickly(), lean_imports() if lean and alone else nullcontext():
        yield


@contextmanager
def tokenizer_imports(*, own_code: bool) -> Iterator[None]:
    """Around the making of a tokenizer, where nothing else of transformers is needed: it does without torch.

    ``own_code``: it comes with code, which may want torch. Not in a process that is not packtrain's own.
    """
    if own_code or not is_own_process():
        with heavy_imports():
            yield
        return
    with heavy_imports(lean=False), not_there("torch"), _unadvised():
        yield


@contextmanager
def _unadvised() -> Iterator[None]:
    """transformers would tell the user that models need torch."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
