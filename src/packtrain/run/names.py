"""The names that transformers offers, found in half of the time: a seventh of a second of each start.

While it is imported, it reads the source of all its models, and in each file looks through all lines for
``__all__``, which stands in the last ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

SCANNER = "transformers.utils.import_utils"


def from_the_last(read: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """``read``, which takes the last line that begins with ``__all__``, without what is before that line."""

    def read_the_end(file_content: str) -> list[str]:
        return read(file_content[file_content.rfind("\n__all__") + 1 :])

    return read_the_end


@contextmanager
def found_quickly() -> Iterator[None]:
    """Around the import of transformers."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != SCANNER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Quick(spec.loader)
        return spec


class _Quick(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        read = getattr(module, "fetch__all__", None)
        if read is not None:  # another version may have another way
            module.fetch__all__ = from_the_last(read)  # type: ignore[attr-defined]
