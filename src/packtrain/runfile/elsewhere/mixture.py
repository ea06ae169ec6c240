"""Data sets of another trainer's file as ``data.train``: names alone, or a mixture where they differ."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.layouts import Layout, put_layouts

PROBABILITIES = (
    "a weight says how often an epoch sees each row of a source, whose rows are not counted here: set "
    "each item's weight to its probability × the rows of an epoch / its own rows"
)
_FIRST_ROWS = re.compile(r"[\w.-]+\[:(\d+)\]")


@dataclass(frozen=True)
class Found:
    """A data set that a file names."""

    place: str
    layout: Layout = field(default_factory=Layout)
    """Of its rows, as far as it is known."""
    limit: int | None = None
    weight: float = 1.0


def put_sources(carried: Carried, found: list[Found], origin: str) -> None:
    """``data.train`` and how its rows are laid out; what is the same for all is said once."""
    formats, limits = {each.layout.format for each in found}, {each.limit for each in found}
    weighted = any(each.weight != 1.0 for each in found)
    same = formats.pop() if len(formats) == 1 else None
    if not weighted and not formats and (len(found) == 1 or limits == {None}):
        places = [each.place for each in found]
        carried.put("data.train", places[0] if len(places) == 1 else places, origin=origin)
        carried.put("data.limit", found[0].limit, origin=origin)
    else:
        carried.put("data.train", [_item(each, same) for each in found], origin=origin)
    carried.put("data.format", same or "auto")
    put_layouts(carried, [each.layout for each in found], origin)


def _item(found: Found, same: str | None) -> Any:
    item: dict[str, Any] = {"source": found.place}
    if found.weight != 1.0:
        item["weight"] = found.weight
    if found.layout.format not in {None, same}:
        item["format"] = found.layout.format
    if found.limit is not None:
        item["limit"] = found.limit
    return item if len(item) > 1 else found.place


def first_rows(split: Any) -> int | None:
    """How many rows ``train[:1000]`` means."""
    part = _FIRST_ROWS.fullmatch(str(split))
    return int(part[1]) or None if part else None


def leave_first_rows(carried: Carried, where: str, split: Any) -> None:
    """Of validation, which has no limit of its own."""
    if first_rows(split):
        carried.leave(f"{where}: {split}", "a part of validation cannot be named; all of it was taken")
