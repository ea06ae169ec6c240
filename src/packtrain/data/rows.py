"""A row of training data, or what is wrong with one, and the place where it stands.

Rows may be private: no message here or elsewhere repeats a value, only names, types and lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Longer names are not shown: a file without a header makes names out of its first row.
LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Row:
    place: str
    """``train.jsonl:17`` (the line that the row begins on), ``train.parquet:row 17`` (from 1)."""
    fields: dict[str, Any]


class BadRow(ValueError):
    """One row is bad. ``str()`` is ``train.jsonl:17: response: is empty``.

    ``field`` is empty where the whole row is meant, and a path such as ``messages[2].content``
    (list items from 0) inside a nested row.
    """

    def __init__(self, place: str, field: str, problem: str) -> None:
        self.place, self.field, self.problem = place, field, problem
        super().__init__(f"{place}: {field}: {problem}" if field else f"{place}: {problem}")

    def __reduce__(self) -> tuple[type[BadRow], tuple[str, str, str]]:
        return type(self), (self.place, self.field, self.problem)


#: What reading yields: a bad row is an item, so that a reader of the rows may go on after it.
Item = Row | BadRow

#: In this order: a bool is an int, too.
_TYPE_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a string"),
    (list, "a list"),
    (dict, "an object"),
)


def type_name(value: object) -> str:
    """What JSON calls it, with its article."""
    for kind, name in _TYPE_NAMES:
        if isinstance(value, kind):
            return name
    return f"a value of type {type(value).__name__}"


def shown_name(name: object) -> str:
    """A column's, key's or role's name for a message; one that may be content is only measured."""
    text = str(name)
    if not text:
        return '""'
    if len(text) > LONGEST_NAME or not text.isprintable():
        return f"(a name of {len(text)} characters)"
    return text


def shown_names(names: list[Any], most: int = 12) -> str:
    """Names in a list for a message, such as ``a, b, c and 4 more``."""
    head = ", ".join(shown_name(name) for name in names[:most])
    return f"{head} and {len(names) - most} more" if len(names) > most else head
