"""A stand-in for the Kubernetes API server on 127.0.0.1, for the real kubectl and lightkube.

Discovery, get, list, watch, create, update, patch, both kinds of apply, delete, logs, for core, apps,
batch, JobSet, Kueue and GKE's networks. ``kube_api.faults.add(...)`` scripts what goes wrong,
``kube_api.play(name, story)`` what becomes of a Job (:mod:`standins.kube_story`). In a test:

    from standins.kube_api import kube_api  # noqa: F401  (the fixture)

    def test_something(kube_api, tmp_path):
        environment = {"PACKTRAIN_KUBECONFIG": str(kube_api.kubeconfig(tmp_path / "kubeconfig"))}
        kube_api.create("ConfigMap", "name", data={"a": "b"})
"""

from __future__ import annotations

import fnmatch
import json
import re
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from standins.kube_http import Handler, Server
from standins.kube_resources import CUSTOM, GKE, JOBSET, KUEUE, Resource, crd, served
from standins.kube_store import Key, Object, Store

__all__ = ["CUSTOM", "GKE", "JOBSET", "KUEUE", "Fault", "KubeApi", "kube_api"]
TOKEN = "a-token-of-the-stand-in"


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of, or besides, its handling."""

    status: int | None = None
    """Answer with this, without doing anything."""
    reason: str = ""
    """Of the Status object, such as ``Forbidden``."""
    message: str = "as the test scripted"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before anything is done."""
    cut_after: int | None = None
    """Of a watch or a log: close the connection, torn in mid-line, after so many lines."""
    end_after: int | None = None
    """Of a watch or a log: end the stream in order after so many lines."""
    drop: bool = False
    """Close the connection without an answer."""
    before: Callable[[], None] | None = None


@dataclass
class _Scripted:
    method: str
    pattern: re.Pattern[str]
    fault: Fault
    times: int | None
    skip: int


class Faults:
    """Faults by method and path (with query), used up in the order in which they were added."""

    def __init__(self) -> None:
        self._scripted: list[_Scripted] = []
        self._lock = threading.Lock()
        self.hits = 0

    def add(self, method: str, pattern: str, fault: Fault, *, times: int | None = 1, skip: int = 0) -> None:
        """``method``: ``*`` for any, ``WATCH`` for a watch. ``times``: None for always."""
        self._scripted.append(_Scripted(method, re.compile(pattern), fault, times, skip))

    def clear(self) -> None:
        self._scripted.clear()

    def take(self, methods: set[str], target: str) -> Fault:
        with self._lock:
            for scripted in self._scripted:
                if scripted.method not in {"*", *methods} or not scripted.pattern.search(target):
                    continue
                if scripted.skip:
                    scripted.skip -= 1
                    continue
                if scripted.times == 0:
                    continue
                if scripted.times is not None:
                    scripted.times -= 1
                self.hits += 1
                return scripted.fault
        return Fault()


@dataclass(frozen=True)
class LogLine:
    time: str
    """RFC 3339 with nanoseconds."""
    text: str


class KubeApi:
    """The server, and what a test does to its cluster."""

    def __init__(self, installed: tuple[str, ...] = CUSTOM) -> None:
        self.store = Store()
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        """Method and path (with query) of each request."""
        self.managers: list[str] = []
        self.logs: dict[tuple[str, str, str, bool], list[LogLine]] = defaultdict(list)
        """By namespace, pod, container, and whether of the container before this one."""
        self.stories: list[tuple[str, Callable[[Any, Object], None]]] = []
        self.story_errors: list[BaseException] = []
        self.token: str | None = None
        """Asked of every request. kubectl sends none over plain HTTP, so only lightkube can pass."""
        self.allowed: Callable[[Object], bool] = lambda spec: True
        """What SelfSubjectAccessReview (``kubectl auth can-i``) answers."""
        self.resources: tuple[Resource, ...] = ()
        self.install(*installed)
        self.create("Namespace", "default")
        self.closing = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler, self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on; the handshake is made by the thread that answers."""
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = self.url.replace("http:", "https:")

    def close(self) -> None:
        self.closing.set()
        with self.store.changed:
            self.store.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def install(self, *groups: str, version: str = "v0.10.1") -> None:
        """These custom resources and no others are there, with their definitions."""
        self.resources = served(set(groups))
        kind = self.resource("CustomResourceDefinition")
        for each in self.store.all(kind, None)[0]:
            self.store.delete(kind, "", each["metadata"]["name"], "Orphan")
        custom = dict.fromkeys(
            (each.group, each.plural, each.kind) for each in self.resources if each.group in CUSTOM
        )
        for group, plural, name in custom:
            names = [each.version for each in self.resources if each.key == (group, plural)]
            self.store.create(kind, "", crd(group, plural, name, names, version if group != GKE else ""))

    def kubeconfig(self, path: Path, *, server: str | None = None, user: Object | None = None) -> Path:
        """Writes a kubeconfig for this server at ``path``. ``user``: another way to log in."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "standin",
            "clusters": [{"name": "standin", "cluster": {"server": server or self.url}}],
            "users": [{"name": "standin", "user": user or {"token": TOKEN}}],
            "contexts": [{"name": "standin", "context": {"cluster": "standin", "user": "standin"}}],
        }
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    # -- what a test does to the cluster, by kind

    def resource(self, kind: str) -> Resource:
        return next(each for each in self.resources if each.kind == kind)

    def create(
        self, kind: str, name: str, *, namespace: str = "default", labels: Object | None = None, **parts: Any
    ) -> Object:
        resource = self.resource(kind)
        new = {
            "apiVersion": resource.api_version,
            "kind": kind,
            "metadata": {"name": name, "labels": labels or {}},
        }
        metadata = new["metadata"] | parts.pop("metadata", {})
        return self.store.create(
            resource, self._place(resource, namespace), new | parts | {"metadata": metadata}
        )

    def get(self, kind: str, name: str, *, namespace: str = "default") -> Object:
        resource = self.resource(kind)
        return self.store.get(resource, self._place(resource, namespace), name)

    def find(self, kind: str, *, namespace: str | None = None) -> list[Object]:
        return self.store.all(self.resource(kind), namespace)[0]

    def names(self, kind: str, *, namespace: str | None = None) -> list[str]:
        return [each["metadata"]["name"] for each in self.find(kind, namespace=namespace)]

    def status(self, kind: str, name: str, *, namespace: str = "default", **status: Any) -> Object:
        resource = self.resource(kind)
        return self.store.set_status(resource, self._place(resource, namespace), name, **status)

    def delete(self, kind: str, name: str, *, namespace: str = "default", policy: str = "Background") -> None:
        resource = self.resource(kind)
        self.store.delete(resource, self._place(resource, namespace), name, policy)

    @staticmethod
    def _place(resource: Resource, namespace: str) -> str:
        return namespace if resource.namespaced else ""

    def play(self, pattern: str, story: Callable[[Any, Object], None]) -> None:
        """``story(cluster, job)`` runs in a thread for each Job, JobSet or Pod made with such a name.

        ``pattern`` as in a shell; the first that fits is used.
        """
        self.stories.append((pattern, story))

    def made(self, key: Key, new: Object) -> None:
        """Called by the server when a client has made an object."""
        if new["kind"] not in ("Job", "JobSet", "Pod"):
            return
        for pattern, story in self.stories:
            if fnmatch.fnmatch(key[3], pattern):
                from standins.kube_story import Cluster

                threading.Thread(target=self._tell, args=(story, Cluster(self), new), daemon=True).start()
                return

    def _tell(self, story: Callable[[Any, Object], None], cluster: Any, new: Object) -> None:
        try:
            story(cluster, new)
        except BaseException as error:  # noqa: BLE001  (the fixture raises it in the test's own thread)
            self.story_errors.append(error)


@pytest.fixture
def kube_api() -> Iterator[KubeApi]:
    server = KubeApi()
    try:
        yield server
    finally:
        server.close()
    if server.story_errors:
        raise server.story_errors[0]
