"""kubectl's commands for the few objects of the setup, and how they are told to be ours."""

from __future__ import annotations

from typing import Any

import yaml

from packtrain.gcp.commands import Command

MANAGER = "packtrain"
LABELS = {"app.kubernetes.io/name": MANAGER, "app.kubernetes.io/managed-by": MANAGER}
NOT_OURS = "app.kubernetes.io/managed-by!=packtrain"


class Quoted(str):
    """Text that YAML quotes whatever it looks like: a value that is filled in later."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    Quoted, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style='"')
)


def manifest(*objects: dict[str, Any]) -> str:
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=100)


def apply(*objects: dict[str, Any], values: tuple[str, ...] = ()) -> Command:
    """Server-side: no copy of the object (a Secret's content) in an annotation, and conflicts are told."""
    argv = ("kubectl", "apply", "--server-side", f"--field-manager={MANAGER}", "--filename=-")
    return Command(argv, stdin=manifest(*objects), values=values)


def get(kind: str, name: str, namespace: str | None = None) -> Command:
    at = (f"--namespace={namespace}",) if namespace else ()
    return Command(("kubectl", "get", kind, name, *at, "--ignore-not-found", "--output=json"))


def listing(kind: str, namespace: str, selector: str) -> Command:
    argv = ("kubectl", "get", kind, f"--namespace={namespace}", f"--selector={selector}", "--output=json")
    return Command(argv)


def delete(kind: str, name: str, namespace: str | None = None) -> Command:
    at = (f"--namespace={namespace}",) if namespace else ()
    return Command(("kubectl", "delete", kind, name, *at, "--ignore-not-found"))


def metadata(name: str, namespace: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": dict(LABELS), **more}


def is_ours(found: dict[str, Any]) -> bool:
    labels = found.get("metadata", {}).get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == MANAGER
