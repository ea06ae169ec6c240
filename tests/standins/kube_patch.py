"""How a change is merged into an object: the patches of Kubernetes, and server-side apply with its owners."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
Path = tuple[str, ...]
#: Nobody owns these: they name the object, or are the server's.
UNOWNED = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}
SERVERS = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge(target: Any, patch: Any) -> Any:
    """As :func:`merge_patch`; lists of named things are merged by name."""
    if isinstance(patch, list):
        return _merge_named(target, patch) if _named(patch) else copy.deepcopy(patch)
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$setElementOrder/") or key == "$retainKeys":
            continue
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = strategic_merge(merged.get(key), value)
    return merged


def _named(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and "name" in item for item in items)


def _merge_named(target: Any, patch: list[Any]) -> list[Any]:
    old = {item["name"]: item for item in target or [] if isinstance(item, dict) and "name" in item}
    for item in patch:
        if item.get("$patch") == "delete":
            old.pop(item["name"], None)
        else:
            old[item["name"]] = strategic_merge(old.get(item["name"]), item)
    return list(old.values())


def json_patch(target: Object, operations: list[dict[str, Any]]) -> Object:
    """RFC 6902: add, replace and remove."""
    changed = copy.deepcopy(target)
    for operation in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place: Any = changed
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        if operation["op"] == "remove":
            del place[int(last) if isinstance(place, list) else last]
        elif isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), operation["value"])
        else:
            place[last] = operation["value"]
    return changed


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field that an object sets; a list is one field."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif path not in UNOWNED and not (path[:1] == ("metadata",) and path[1] in SERVERS):
        yield path, value


class Conflict(Exception):
    """Fields that another manager owns and has set otherwise."""

    def __init__(self, fields: list[tuple[Path, str]]) -> None:
        super().__init__(fields)
        self.fields = fields


def apply(
    current: Object | None, owners: dict[Path, str], wanted: Object, manager: str, force: bool
) -> Object:
    """Server-side apply; ``owners`` (who set which field last) is brought up to date."""
    merged = copy.deepcopy(current) if current else {}
    asked = dict(leaves(wanted))
    conflicts = [
        (path, owners[path])
        for path, value in asked.items()
        if owners.get(path, manager) != manager and _at(merged, path) != value
    ]
    if conflicts and not force:
        raise Conflict(conflicts)
    for path in [path for path, owner in owners.items() if owner == manager and path not in asked]:
        _remove(merged, path)
        del owners[path]
    for path, value in asked.items():
        place = merged
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = copy.deepcopy(value)
        owners[path] = manager
    for key in ("apiVersion", "kind"):
        merged[key] = wanted[key]
    for key in ("name", "namespace"):
        if key in wanted.get("metadata", {}):
            merged.setdefault("metadata", {})[key] = wanted["metadata"][key]
    return merged


def own(owners: dict[Path, str], before: Object | None, after: Object, manager: str) -> None:
    """Who created or changed fields in another way than by apply owns them, too."""
    old = dict(leaves(before or {}))
    for path, value in leaves(after):
        if path[:1] != ("status",) and (path not in old or old[path] != value):
            owners[path] = manager


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _remove(value: Any, path: Path) -> None:
    for part in path[:-1]:
        value = value.get(part, {})
    value.pop(path[-1], None)
