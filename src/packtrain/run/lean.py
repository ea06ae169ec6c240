"""transformers imported without what only torch.compile and several processes need: a second of each start.

transformers marks functions for torch.compile, and brings DTensors, whatever a process does; the compiler
and sympy come with them, a third of all modules. In a process of packtrain's own that compiles nothing and
shares its work with nobody, stand-ins take these imports. Whatever they do not know they leave to the real
module: where a later version asks for more, a start is slower, and nothing else.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """A module whose code has not run: the real one comes with the first question for more than is here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked of any module, by those who look at all
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if "__path__" in vars(self) and find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        return getattr(self._real(), name)

    def __dir__(self) -> list[str]:
        return dir(self._real())

    def _real(self) -> ModuleType:
        self.leave()
        return importlib.import_module(self.__name__)

    def enter(self) -> None:
        """Where an import looks, and where an attribute of the package is looked up."""
        package, _, name = self.__name__.rpartition(".")
        sys.modules[self.__name__] = self
        setattr(sys.modules[package], name, self)

    def leave(self) -> None:
        package, _, name = self.__name__.rpartition(".")
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        if vars(sys.modules[package]).get(name) is self:
            delattr(sys.modules[package], name)


@contextmanager
def lean_imports() -> Iterator[None]:
    """Around the first import of transformers' models; brings torch, and the names of transformers.

    In a process that compiles nothing and is not one of several.
    """
    compiler = compiler_stand_in()
    compiler.enter()
    try:
        _alone()
        models_stand_in().enter()
        yield
    finally:
        compiler.leave()


def compiler_stand_in() -> StandIn:
    """``torch._dynamo`` as one who marks functions for it sees it: functions stay as they are.

    The marks are for torch.compile alone, which is not there.
    """
    import torch

    made = StandIn("torch._dynamo")
    vars(made).update(disable=_unchanged, allow_in_graph=_unchanged, assume_constant_result=_unchanged)
    # One part of it has nothing to do with compiling and does without the rest; transformers' masks need it.
    made.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]
    made.enter()
    try:
        with suppress(ImportError):
            importlib.import_module("torch._dynamo._trace_wrapped_higher_order_op")
    finally:
        made.leave()
        del made.__path__
    return made


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """A decorator, with arguments or without, that decorates nothing."""
    return _unchanged if function is None else function


def _alone() -> None:
    """Let transformers find a PyTorch without ``torch.distributed``, as some are; it asks once a process."""
    import torch
    from transformers.utils import is_torch_distributed_available as asked

    if not hasattr(asked, "cache_info"):  # it would ask again, and not believe what it was told
        return
    truth = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        asked()
    finally:
        torch.distributed.is_available = truth


def models_stand_in() -> StandIn:
    """``transformers.models``, which reads the source of a thousand modules for the names that they have.

    transformers itself has just done that; a model is found without.
    """
    spec = find_spec("transformers.models")
    assert spec is not None and spec.submodule_search_locations is not None
    made = StandIn("transformers.models")
    made.__path__ = list(spec.submodule_search_locations)
    made.__file__, made.__package__ = spec.origin, spec.name
    return made
