"""Turns what pydantic finds wrong with a run file into one sentence a problem.

pydantic reports a union once for each of its branches, and names the branches in the location.
Here each value gets one sentence: from the branch whose type fits, or else all that is expected.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from packtrain.config import DNS_LABEL, NAME, NOT_BLANK, DataSource, Prompt
from packtrain.runfile.document import Document, KeyPath, did_you_mean, dotted_key
from packtrain.runfile.keys import FIELDS, SECTIONS, nearest_key, nearest_name

_LABEL = "must be a DNS label: at most {} characters of a-z, 0-9 and -, a letter or digit first and last"
#: For patterns, which say nothing to a reader.
PATTERNS = {NAME: _LABEL.format(40), DNS_LABEL: _LABEL.format(63), NOT_BLANK: "must not be empty"}

_EXPECTS = {
    "string_type": "text",
    "string_unicode": "valid Unicode text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "keys and values",
    "dict_type": "keys and values",
}

_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def sentences(error: ValidationError, document: Document) -> list[str]:
    """One sentence a wrong value, in the order of the file's lines."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(_key_path(item, document.data), []).append(item)
    # A branch that got further into the value says more than one that stopped before.
    further = {path[:length] for path in found for length in range(1, len(path))}
    paths = sorted((path for path in found if path not in further), key=document.line)
    return [_sentence(path, found[path], document) for path in paths]


def _key_path(item: ErrorDetails, data: Any) -> KeyPath:
    """The location without the names of union branches."""
    loc, path = item["loc"], []
    names_absent = item["type"] in {"missing", "extra_forbidden"}
    for position, part in enumerate(loc):
        is_index = isinstance(part, int) and isinstance(data, list)
        is_key = isinstance(data, dict) and part in data
        if is_index or is_key:
            path.append(part)
            data = data[part]
        elif names_absent and position == len(loc) - 1:
            path.append(part)
    return tuple(path)


def _sentence(path: KeyPath, items: list[ErrorDetails], document: Document) -> str:
    first = items[0]
    message = first["msg"].removeprefix("Value error, ")
    if not path:  # a check over several keys, whose message begins with the key
        key, _, problem = message.partition(": ")
        return f"{document.place(tuple(key.split('.')))}: {problem}"
    place = document.place(path)
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key{did_you_mean(_nearest(path))}"
    if first["type"] == "missing":
        return f"{place}: is missing{_meaning(dotted_key(path))}"
    if first["loc"][-1] == "[key]":  # one of few names that a map may have
        known = re.findall(r"'([^']+)'", first["ctx"]["expected"])
        meant = did_you_mean(nearest_name(str(path[-1]), known))
        return f"{place}: unknown key{meant or '; known are ' + ', '.join(known)}"
    limits = list(dict.fromkeys(text for item in items if (text := _limit(item))))
    if limits:
        return f"{place}: {' and '.join(limits)} (is {shown(first['input'])})"
    expected = list(dict.fromkeys(_expected(item) for item in items))
    return f"{place}: expects {' or '.join(expected)}, got {described(first['input'])}"


def _nearest(path: KeyPath) -> str | None:
    if any(isinstance(part, int) for part in path):  # inside of a prompt, or of a mixture's item
        inside = DataSource if path[0] == "data" else Prompt
        return nearest_name(str(path[-1]), inside.model_fields)
    return nearest_key(dotted_key(path))


def _meaning(key: str) -> str:
    """What a missing key is for, or which keys a missing section needs."""
    if key in SECTIONS:
        needed = [
            name for name, field in FIELDS.items() if name.startswith(f"{key}.") and field.is_required()
        ]
        return f"; it needs {' and '.join(needed)}"
    description = FIELDS[key].description if key in FIELDS else None
    return f" ({' '.join(description.split()).split('. ')[0].rstrip('.')})" if description else ""


def _limit(item: ErrorDetails) -> str | None:
    """What a value of the right type violates; None for a value of the wrong type."""
    kind, context = item["type"], item.get("ctx", {})
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return (
            f"must be {words} {context[key]:g}"
            if abs(context[key]) < 1e6
            else f"must be {words} {context[key]}"
        )
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    if kind in {"string_too_short", "too_short"}:
        return "must not be empty"
    return None


def _expected(item: ErrorDetails) -> str:
    kind = item["type"]
    if kind == "literal_error":
        return str(item["ctx"]["expected"]).replace("'", "")
    if kind == "value_error":
        return item["msg"].removeprefix("Value error, ").removeprefix("is ")
    return _EXPECTS.get(kind) or item["msg"]


def shown(value: Any) -> str:
    """A value as one would write it, cut where it is long."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def described(value: Any) -> str:
    """What a value is, for a value of the wrong type."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {shown(value)}" if value else "an empty text"
    if isinstance(value, list):
        return "a list"
    return "keys and values" if isinstance(value, dict) else shown(value)
