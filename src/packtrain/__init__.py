"""packtrain: a run file in, a verified adapter out.

In Python (docs/python.md)::

    import packtrain

    run = packtrain.load("run.yaml")
    packtrain.plan(run)
    packtrain.train(run).load().chat("Hello!")

What these need is imported when they are used: importing packtrain itself takes nothing.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packtrain.api import Adapter, PacktrainError, Plan, RunConfig, Trained, load, plan, train

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "PacktrainError",
    "Plan",
    "RunConfig",
    "Trained",
    "__version__",
    "load",
    "plan",
    "train",
]


class _Room(ModuleType):
    """A folder of ours that is called as what it is named for: ``packtrain.plan(run)``.

    ``packtrain.plan`` names the folder as soon as anything in it is imported, whatever else was meant.
    """

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """See :mod:`packtrain.api`."""
        return self._function()(*arguments, **named)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def _function(self) -> Any:
        return getattr(importlib.import_module("packtrain.api"), self.__name__.rpartition(".")[2])


for _name in ("packtrain.plan", "packtrain.train"):
    importlib.import_module(_name).__class__ = _Room


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("packtrain.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
