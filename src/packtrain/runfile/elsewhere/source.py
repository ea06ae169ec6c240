"""The file of another trainer while it is read: what was asked of it, and what nobody asked for.

A translator takes values by their names there. Whatever it has not taken in the end is listed, so
that no key is dropped silently.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from packtrain.errors import ConfigError
from packtrain.runfile.document import Document, KeyPath, dotted_key

#: A name that may hold a secret; a tokenizer's special tokens are none.
_SECRET = re.compile(
    r"(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)token$|^key$|(api|access|secret|private|auth)_?key|secret"
    r"|password|passwd|credential",
    re.IGNORECASE,
)
_LONGEST_VALUE = 60
_TRUE, _FALSE = {"true", "yes", "on"}, {"false", "no", "off"}


class Source:
    """Reads one document; keys are dotted (``model.lora_rank``). Null counts as absent."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._taken: set[KeyPath] = set()

    def take(self, key: str, default: Any = None) -> Any:
        """The value, which counts as understood from now on."""
        path: KeyPath = tuple(key.split("."))
        self._taken.add(path)
        value: Any = self.document.data
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    def has(self, key: str) -> bool:
        value: Any = self.document.data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value is not None

    def number(self, key: str, default: float | None = None) -> float | None:
        """A number, also one in quotes or one that YAML 1.1 reads as text. Errors: ConfigError."""
        value = self.take(key, default)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise self.wrong(key, f"must be a number, and is {shown(key, value)}") from None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | None)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise self.wrong(key, f"must be a number, and is {shown(key, value)}")
        return value

    def whole(self, key: str, default: int | None = None) -> int | None:
        value = self.number(key, default)
        if value is None or value == int(value):
            return None if value is None else int(value)
        raise self.wrong(key, f"must be a whole number, and is {shown(key, value)}")

    def count(self, key: str, default: int) -> int:
        """A whole number of at least 1."""
        value = self.whole(key, default)
        if value is None or value < 1:
            raise self.wrong(key, f"must be at least 1, and is {value}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.take(key, default)
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        if not isinstance(value, bool):
            raise self.wrong(key, f"must be true or false, and is {shown(key, value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.take(key, default)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.wrong(key, f"must be text, and is {shown(key, value)}")
        return value

    def names(self, key: str) -> list[str] | None:
        """A list of names, or a text with commas in it; None where nothing is said."""
        value = self.take(key)
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if value is not None and (
            not isinstance(value, list) or not all(isinstance(name, str) for name in value)
        ):
            raise self.wrong(key, f"must be a list of names, and is {shown(key, value)}")
        return value or None

    def wrong(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.place(key)}: {problem}")

    def place(self, key: str) -> str:
        return self.document.place(tuple(key.split(".")))

    def untaken(self) -> Iterator[tuple[str, Any]]:
        """Every key that nobody took and that has a value; a section of which nothing was taken, whole."""
        yield from self._untaken(self.document.data, ())

    def _untaken(self, data: Mapping[str, Any], above: KeyPath) -> Iterator[tuple[str, Any]]:
        for name, value in data.items():
            path = (*above, name)
            if path in self._taken or value is None or value in ([], {}):
                continue
            within = any(taken[: len(path)] == path for taken in self._taken)
            if within and isinstance(value, dict):
                yield from self._untaken(value, path)
            else:
                yield dotted_key(path), value


def shown(key: str, value: Any) -> str:
    """A value in one short line; never that of a key which may hold a secret."""
    if isinstance(value, str) and not _SECRET.search(key):
        text = value
    else:
        text = json.dumps(_without_secrets(key, value), ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _without_secrets(key: str, value: Any) -> Any:
    if _SECRET.search(key):
        return "(not shown)"
    if isinstance(value, dict):
        return {name: _without_secrets(name, each) for name, each in value.items()}
    return [_without_secrets("", each) for each in value] if isinstance(value, list) else value
