"""The objects of the stand-in Kubernetes API server, with the rules that a real one holds.

Resource versions, a history that watches read (and that can be compacted: 410), preconditions,
what is immutable, namespaces that must be there, deletion with its three propagation policies.
"""

from __future__ import annotations

import copy
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from standins.kube_patch import Conflict, apply, own
from standins.kube_resources import Resource

Object = dict[str, Any]
Key = tuple[str, str, str, str]
"""Group, plural, namespace, name."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Refused(Exception):
    """An answer that is an error: becomes a Status object."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Object] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.causes = code, reason, message, causes or []

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": {"causes": self.causes},
            "code": self.code,
        }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Change:
    version: int
    kind: str
    """ADDED, MODIFIED or DELETED."""
    key: Key
    object: Object


@dataclass
class Store:
    objects: dict[Key, Object] = field(default_factory=dict)
    owners: dict[Key, dict[tuple[str, ...], str]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    version: int = 1000
    compacted: int = 0
    """Watches from before this version are answered 410."""
    termination: float = 0.02
    """Seconds that a pod takes to end after it was deleted."""

    # -- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        with self.changed:
            found = self.objects.get((*resource.key, namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{resource.full_name} "{name}" not found')
            return _as(found, resource)

    def all(self, resource: Resource, namespace: str | None) -> tuple[list[Object], int]:
        """All of a resource, in a namespace or (None) everywhere, and the version of that view."""
        with self.changed:
            found = [
                _as(each, resource)
                for key, each in self.objects.items()
                if key[:2] == resource.key and namespace in (None, key[2])
            ]
            return found, self.version

    def since(self, resource: Resource, namespace: str | None, version: int) -> list[Change]:
        with self.changed:
            if version < self.compacted:
                raise Refused(410, "Expired", f"too old resource version: {version} ({self.compacted})")
            return [
                Change(each.version, each.kind, each.key, _as(each.object, resource))
                for each in self.changes
                if each.version > version
                and each.key[:2] == resource.key
                and namespace in (None, each.key[2])
            ]

    def compact(self) -> None:
        """Forget the history: whoever watches from an older version has to list again."""
        with self.changed:
            self.version += 1
            self.compacted = self.version
            self.changes.clear()

    # -- writing

    def create(
        self, resource: Resource, namespace: str, new: Object, manager: str = "test", dry: bool = False
    ) -> Object:
        with self.changed:
            metadata = new.setdefault("metadata", {})
            if "generateName" in metadata and "name" not in metadata:
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            name = metadata.get("name", "")
            self._check(resource, namespace, name, new)
            key = (*resource.key, namespace, name)
            if key in self.objects:
                raise Refused(409, "AlreadyExists", f'{resource.full_name} "{name}" already exists')
            made = copy.deepcopy(new)
            made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            if resource.namespaced:
                made["metadata"]["namespace"] = namespace
            _defaults(resource, made)
            if not dry:
                own(self.owners.setdefault(key, {}), None, new, manager)
                self._put("ADDED", key, made)
            return copy.deepcopy(made)

    def replace(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        new: Object,
        manager: str = "test",
        dry: bool = False,
    ) -> Object:
        """The object becomes ``new``; a resourceVersion in it must be the present one."""
        with self.changed:
            key = (*resource.key, namespace, name)
            old = self.get(resource, namespace, name)
            wanted = new.get("metadata", {}).get("resourceVersion")
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                raise Refused(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on {resource.full_name} "{name}": the object has been '
                    "modified; please apply your changes to the latest version and try again",
                )
            _immutable(resource, old, new)
            made = copy.deepcopy(new)
            for kept in ("uid", "creationTimestamp", "namespace", "name"):
                if kept in old["metadata"]:
                    made.setdefault("metadata", {})[kept] = old["metadata"][kept]
            if not dry:
                own(self.owners.setdefault(key, {}), old, made, manager)
                self._put("MODIFIED", key, made)
            return copy.deepcopy(made)

    def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        wanted: Object,
        manager: str,
        force: bool,
        dry: bool,
    ) -> tuple[Object, bool]:
        """Server-side apply. The object, and whether it is new."""
        with self.changed:
            key = (*resource.key, namespace, name)
            old = self.objects.get(key)
            owners = dict(self.owners.get(key, {}))
            try:
                merged = apply(old, owners, wanted, manager, force)
            except Conflict as conflict:
                causes = [
                    {
                        "reason": "FieldManagerConflict",
                        "message": f'conflict with "{owner}"',
                        "field": _dotted(path),
                    }
                    for path, owner in conflict.fields
                ]
                told = ", ".join(
                    f'conflict with "{owner}": {_dotted(path)}' for path, owner in conflict.fields
                )
                message = f"Apply failed with {len(causes)} conflict{'s' * (len(causes) > 1)}: {told}"
                raise Refused(409, "Conflict", message, causes) from None
            if old is None:
                made = self.create(resource, namespace, merged, manager, dry)
            elif merged == old:
                made = copy.deepcopy(old)
            else:
                made = self.replace(resource, namespace, name, merged, manager, dry)
            if not dry:
                self.owners[key] = owners
            return _as(made, resource), old is None

    def set_status(self, resource: Resource, namespace: str, name: str, **status: Any) -> Object:
        """What a controller or a kubelet does: merge into ``status``."""
        with self.changed:
            found = self.get(resource, namespace, name)
            found["status"] = found.get("status", {}) | copy.deepcopy(status)
            self._put("MODIFIED", (*resource.key, namespace, name), found)
            return found

    def delete(
        self, resource: Resource, namespace: str, name: str, policy: str | None = None, uid: str | None = None
    ) -> Object:
        with self.changed:
            found = self.get(resource, namespace, name)
            if uid and uid != found["metadata"]["uid"]:
                raise Refused(
                    409, "Conflict", f"Precondition failed: UID in precondition: {uid}, UID in object meta: "
                    f"{found['metadata']['uid']}"
                )  # fmt: skip
            key = (*resource.key, namespace, name)
            if policy == "Orphan":
                self._remove(key)
            elif policy == "Foreground" or resource.plural in ("pods", "namespaces"):
                if "deletionTimestamp" not in found["metadata"]:
                    found["metadata"]["deletionTimestamp"] = now()
                    self._put("MODIFIED", key, found)
                    _later(self.termination, self._finish, key, found["metadata"]["uid"])
            else:
                self._remove(key)
                _later(self.termination, self._collect, found["metadata"]["uid"])
            return found

    def _finish(self, key: Key, uid: str) -> None:
        self._collect(uid)
        with self.changed:
            if key[:2] == ("", "namespaces"):
                for inner in [each for each in self.objects if each[2] == key[3]]:
                    self._remove(inner)
            if key in self.objects and self.objects[key]["metadata"]["uid"] == uid:
                self._remove(key)

    def _collect(self, uid: str) -> None:
        """Garbage: what nobody but the object with ``uid`` owned, and what that owned."""
        with self.changed:
            for key, each in list(self.objects.items()):
                owners = each["metadata"].get("ownerReferences", [])
                left = [owner for owner in owners if owner["uid"] != uid]
                if len(left) == len(owners):
                    continue
                if left:
                    each["metadata"]["ownerReferences"] = left
                    self._put("MODIFIED", key, each)
                else:
                    self._remove(key)
                    self._collect(each["metadata"]["uid"])

    def _put(self, kind: str, key: Key, new: Object) -> None:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = new
        self._tell(Change(self.version, kind, key, copy.deepcopy(new)))

    def _remove(self, key: Key) -> None:
        gone = self.objects.pop(key, None)
        self.owners.pop(key, None)
        if gone is not None:
            self.version += 1
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._tell(Change(self.version, "DELETED", key, copy.deepcopy(gone)))

    def _tell(self, change: Change) -> None:
        self.changes.append(change)
        self.changed.notify_all()

    def _check(self, resource: Resource, namespace: str, name: str, new: Object) -> None:
        if new.get("kind", resource.kind) != resource.kind:
            raise Refused(400, "BadRequest", f"{new['kind']} in version does not match {resource.kind}")
        if not NAME.fullmatch(name):
            raise Refused(
                422, "Invalid", f'{resource.kind} "{name}" is invalid: metadata.name: Invalid value'
            )
        if resource.namespaced:
            found = self.objects.get(("", "namespaces", "", namespace))
            if found is None:
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
            if "deletionTimestamp" in found["metadata"]:
                raise Refused(
                    403, "Forbidden", f"unable to create new content in namespace {namespace} because it is "
                    "being terminated"
                )  # fmt: skip


def _as(found: Object, resource: Resource) -> Object:
    return copy.deepcopy(found) | {"apiVersion": resource.api_version, "kind": resource.kind}


def _dotted(path: tuple[str, ...]) -> str:
    return "." + ".".join(path)


def _later(seconds: float, function: Any, *arguments: Any) -> None:
    def wait() -> None:
        time.sleep(seconds)
        function(*arguments)

    threading.Thread(target=wait, daemon=True).start()


def _defaults(resource: Resource, made: Object) -> None:
    if resource.plural == "namespaces":
        made["status"] = {"phase": "Active"}
    if resource.plural == "secrets":
        made.setdefault("type", "Opaque")
    if resource.plural == "jobs":
        uid, name = made["metadata"]["uid"], made["metadata"]["name"]
        spec = made.setdefault("spec", {})
        spec.setdefault("selector", {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})
        labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
        labels |= {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
        labels |= {"controller-uid": uid, "job-name": name}
    if resource.plural in ("pods", "jobs", "jobsets"):
        made.setdefault("status", {})
    if resource.plural == "pods":
        made["status"].setdefault("phase", "Pending")


def _immutable(resource: Resource, old: Object, new: Object) -> None:
    def refuse(field_name: str, why: str = "field is immutable") -> None:
        name = old["metadata"]["name"]
        raise Refused(422, "Invalid", f'{resource.kind} "{name}" is invalid: {field_name}: {why}')

    if resource.plural == "configmaps" and old.get("immutable"):
        if any(old.get(part) != new.get(part) for part in ("data", "binaryData")):
            refuse("data", "Forbidden: field is immutable when `immutable` is set")
        if not new.get("immutable"):
            refuse("immutable", "Forbidden: field is immutable when `immutable` is set")
    if resource.plural == "jobs":
        for part in ("template", "selector", "completionMode", "podFailurePolicy"):
            if old.get("spec", {}).get(part) != new.get("spec", {}).get(part):
                refuse(f"spec.{part}", "Invalid value: field is immutable")
    if resource.plural == "jobsets" and not old["spec"].get("suspend"):
        before, after = (each.get("spec", {}).get("replicatedJobs") for each in (old, new))
        if before != after:
            refuse("spec.replicatedJobs", "Invalid value: field is immutable")
