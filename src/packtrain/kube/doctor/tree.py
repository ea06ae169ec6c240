"""A document of unknown shape, read safely: every step answers, and knows where in the document it is.

Rules look at files that others wrote. A field may be absent, a list where a mapping should be, or a number
where a text should be; none of that may end a rule. So a step into nothing is a :class:`Node` without value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]

_QUANTITY = re.compile(
    r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,3})|(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?$"
)
_SUFFIXES = {"m": 1e-3, "k": 1e3} | {
    letter + binary: (1024.0 if binary else 1000.0) ** power
    for power, letter in enumerate("KMGTPE", start=1)
    for binary in ("", "i")
    if letter + binary != "K"
}


@dataclass(frozen=True)
class Node:
    value: Any
    path: Path = ()

    def __getitem__(self, key: str | int) -> Node:
        value = None
        if isinstance(self.value, dict):
            value = self.value.get(key)
        elif isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            value = self.value[key]
        return Node(value, (*self.path, key))

    def at(self, *keys: str | int) -> Node:
        node = self
        for key in keys:
            node = node[key]
        return node

    def __iter__(self) -> Iterator[Node]:
        """The elements of a list; nothing of anything else."""
        if isinstance(self.value, list):
            for index in range(len(self.value)):
                yield self[index]

    def pairs(self) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping; nothing of anything else."""
        if isinstance(self.value, dict):
            for key, value in self.value.items():
                yield str(key), Node(value, (*self.path, key if isinstance(key, str | int) else str(key)))

    def __contains__(self, key: object) -> bool:
        return isinstance(self.value, dict) and key in self.value

    @property
    def present(self) -> bool:
        return self.value is not None

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else ""

    @property
    def is_true(self) -> bool:
        """True for ``true``, and for the ``"true"`` that labels have to write."""
        return self.value is True or (isinstance(self.value, str) and self.value.strip().lower() == "true")

    @property
    def integer(self) -> int | None:
        """A whole number, also written as a text, as gcloud's JSON writes 64-bit ones."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return self.value
        if isinstance(self.value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", self.value, re.ASCII):
            return int(self.value)
        return None

    @property
    def quantity(self) -> float | None:
        """A Kubernetes quantity (``500m``, ``16Gi``) in its base unit."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float | str):
            return None
        found = _QUANTITY.match(str(self.value).strip())
        if found is None:
            return None
        number, exponent, suffix = found.groups()
        result = float(f"{number}e{exponent or 0}") * _SUFFIXES.get(suffix, 1.0)
        return result if math.isfinite(result) else None

    def walk(self, limit: int = 100_000) -> Iterator[Node]:
        """This node and all below it, in the order of the document; no more than ``limit``, nor 100 deep.

        YAML's aliases can make a small file endless.
        """
        pending = [self]
        while pending and limit > 0:
            node = pending.pop()
            limit -= 1
            yield node
            if len(node.path) < 100:
                pending += reversed([child for _, child in node.pairs()] or list(node))


def shown(path: Path) -> str:
    """``spec.template.spec.containers[0].image``."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif re.fullmatch(r"[\w-]+", key):
            text += f".{key}" if text else key
        else:
            text += f'["{key}"]'
    return text
