"""Watches and log streams of the stand-in Kubernetes API server, and the selectors that lists share."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from standins.kube_resources import Resource
from standins.kube_store import Object, Refused

if TYPE_CHECKING:
    from standins.kube_api import Fault, KubeApi


@dataclass(frozen=True)
class Target:
    resource: Resource
    namespace: str | None
    name: str | None
    sub: str | None


class Streams(BaseHTTPRequestHandler):
    """The part of the request handler that answers by line after line."""

    api: KubeApi
    query: dict[str, str]
    fault: Fault

    @staticmethod
    def where(target: Target) -> str | None:
        return target.namespace if target.resource.namespaced else None

    def selected(self, each: Object) -> bool:
        return _labels_fit(each, self.query.get("labelSelector", "")) and _fields_fit(
            each, self.query.get("fieldSelector", "")
        )

    def watch(self, target: Target) -> None:
        store = self.api.store
        started = time.monotonic()
        seconds = float(self.query.get("timeoutSeconds") or 3600)
        version = int(self.query.get("resourceVersion") or 0)
        place = (target.resource, self.where(target))
        if target.name is not None:
            self.query["fieldSelector"] = f"metadata.name={target.name}"
        first: list[Object] = []
        if version == 0:
            first, version = store.all(*place)
        store.since(*place, version)  # 410 before the stream begins
        self.begin("application/json")
        lines = 0
        for each in filter(self.selected, first):
            if not self.line(json.dumps({"type": "ADDED", "object": each}), lines := lines + 1):
                return
        while not self.api.closing.is_set() and time.monotonic() - started < seconds:
            try:
                with store.changed:
                    changes = store.since(*place, version)
                    if not changes:
                        store.changed.wait(0.2)
            except Refused as refused:
                self.line(json.dumps({"type": "ERROR", "object": refused.status()}), lines + 1)
                break
            for change in changes:
                version = change.version
                if self.selected(change.object):
                    event = {"type": change.kind, "object": change.object}
                    if not self.line(json.dumps(event), lines := lines + 1):
                        return
        self.end()

    def log(self, target: Target) -> None:
        assert target.name is not None
        store, namespace = self.api.store, target.namespace or ""
        pod = store.get(target.resource, namespace, target.name)
        containers = [each["name"] for each in pod.get("spec", {}).get("containers", [{"name": "main"}])]
        container = self.query.get("container") or containers[0]
        if container not in containers:
            raise Refused(400, "BadRequest", f"container {container} is not valid for pod {target.name}")
        previous = self.query.get("previous") == "true"
        status = pod.get("status", {})
        key = (namespace, target.name, container, previous)
        if previous and not self.api.logs.get(key):
            raise Refused(
                400,
                "BadRequest",
                f'previous terminated container "{container}" in pod "{target.name}" not found',
            )
        if not status.get("containerStatuses") or "waiting" in status["containerStatuses"][0].get(
            "state", {}
        ):
            reason = "ContainerCreating"
            if status.get("containerStatuses"):
                reason = status["containerStatuses"][0]["state"]["waiting"]["reason"]
            raise Refused(
                400,
                "BadRequest",
                f'container "{container}" in pod "{target.name}" is waiting to start: {reason}',
            )
        follow = self.query.get("follow") == "true"
        since = self.query.get("sinceTime", "")
        lines = self.api.logs[key]
        begin = max(len(lines) - int(self.query["tailLines"]), 0) if "tailLines" in self.query else 0
        self.begin("text/plain")
        sent = 0
        while not self.api.closing.is_set():
            ended = not follow or self.is_over(target, pod["metadata"]["uid"])
            for line in lines[begin:]:
                begin += 1
                # As the kubelet: sinceTime counts in whole seconds.
                if line.time[:19] >= since[:19]:
                    text = f"{line.time} {line.text}" if self.query.get("timestamps") == "true" else line.text
                    if not self.line(text, sent := sent + 1):
                        return
            if ended:
                break
            with store.changed:
                store.changed.wait(0.02)
        self.end()

    def is_over(self, target: Target, uid: str) -> bool:
        try:
            pod = self.api.store.get(target.resource, target.namespace or "", str(target.name))
        except Refused:
            return True
        over = pod["status"].get("phase") in ("Succeeded", "Failed") or pod["metadata"]["uid"] != uid
        statuses = pod["status"].get("containerStatuses") or []
        return over or any("running" not in each.get("state", {}) for each in statuses)

    def begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def line(self, text: str, number: int) -> bool:
        """Sends one line; False when the stream is over, by a fault or because the client went."""
        fault: Fault = self.fault
        if fault.cut_after is not None and number > fault.cut_after:
            self.chunk(text.encode()[: len(text) // 2])
            self.cut()
            return False
        if fault.end_after is not None and number > fault.end_after:
            self.end()
            return False
        return self.chunk(text.encode() + b"\n")

    def chunk(self, data: bytes) -> bool:
        try:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        except OSError:
            self.close_connection = True
            return False
        return True

    def end(self) -> None:
        with suppress(OSError):
            self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _labels_fit(each: Object, selector: str) -> bool:
    labels = each["metadata"].get("labels") or {}
    for part in re.split(r",(?![^(]*\))", selector):
        if match := re.fullmatch(r"([^!=\s]+)\s+in\s+\(([^)]*)\)", part):
            fits = labels.get(match[1]) in [value.strip() for value in match[2].split(",")]
        elif "!=" in part:
            key, _, value = part.partition("!=")
            fits = labels.get(key) != value
        elif "=" in part:
            key, _, value = part.partition("=")
            fits = labels.get(key) == value.lstrip("=")
        elif part.startswith("!"):
            fits = part[1:] not in labels
        else:
            fits = not part or part in labels
        if not fits:
            return False
    return True


def _fields_fit(each: Object, selector: str) -> bool:
    for part in filter(None, selector.split(",")):
        path, _, value = part.partition("=")
        place: Any = each
        for key in path.rstrip("!").split("."):
            place = place.get(key, "") if isinstance(place, dict) else ""
        if (str(place) == value.lstrip("=")) == path.endswith("!"):
            return False
    return True
