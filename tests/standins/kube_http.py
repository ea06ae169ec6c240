"""The HTTP side of the stand-in Kubernetes API server: routes, watches, log streams, scripted faults."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import yaml
from standins import kube_patch
from standins.kube_resources import api_group_list, api_resource_list, openapi_v3, versions
from standins.kube_store import Object, Refused
from standins.kube_streams import Streams, Target

if TYPE_CHECKING:
    from standins.kube_api import KubeApi

ROUTE = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/[a-z]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>status|log))?)?"
)
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], api: KubeApi) -> None:
        super().__init__(address, handler)
        self.api = api


class Handler(Streams):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        self.api = self.server.api
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        watching = self.query.get("watch") in ("1", "true")
        self.api.requests.append((self.command, self.path))
        self.fault = self.api.faults.take({self.command} | ({"WATCH"} if watching else set()), self.path)
        if self.fault.before:
            self.fault.before()
        if self.fault.delay:
            self.api.closing.wait(self.fault.delay)
        if self.fault.drop:
            self.cut()
            return
        try:
            if self.fault.status is not None:
                reason = self.fault.reason or REASONS.get(self.fault.status, "")
                raise Refused(self.fault.status, reason, self.fault.message)
            if self.api.token and self.headers.get("Authorization") != f"Bearer {self.api.token}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            self._route(url.path, watching)
        except Refused as refused:
            self._answer(refused.code, refused.status(), self.fault.headers)

    def _route(self, path: str, watching: bool) -> None:
        if self.command == "GET" and self._discovery(path):
            return
        target = self._target(path)
        if target.sub == "log":
            self.log(target)
        elif watching:
            self.watch(target)
        else:
            {
                "GET": self._get,
                "POST": self._create,
                "PUT": self._update,
                "PATCH": self._patch,
                "DELETE": self._delete,
            }[self.command](target)

    def _discovery(self, path: str) -> bool:
        resources = self.api.resources
        answer: Any = None
        if path == "/version":
            answer = {"major": "1", "minor": "33", "gitVersion": "v1.33.5-gke.1080000"}
        elif path in ("/healthz", "/readyz", "/livez"):
            answer = {"status": "ok"}
        elif path == "/api":
            answer = {"kind": "APIVersions", "versions": ["v1"]}
        elif path == "/apis":
            answer = api_group_list(resources)
        elif path == "/openapi/v2":
            # An empty document, in protobuf: kubectl before 1.28 then leaves the check of fields to us.
            self._answer(200, b"", {"Content-Type": "application/octet-stream"})
            return True
        elif path == "/openapi/v3":
            places = {f"apis/{each.api_version}" if each.group else "api/v1" for each in resources}
            answer = {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places}}
        elif path.startswith("/openapi/v3/"):
            answer = openapi_v3(resources, path.removeprefix("/openapi/v3/"))
        elif match := re.fullmatch(r"/apis/([^/]+)", path):
            names = versions(resources, match[1])
            answer = next(
                (each for each in api_group_list(resources)["groups"] if each["name"] == match[1]), None
            )
            answer = answer and answer | {"kind": "APIGroup", "apiVersion": "v1"} if names else None
        elif match := re.fullmatch(r"/api(?:s/([^/]+))?/(v[^/]+)", path):
            answer = api_resource_list(resources, match[1] or "", match[2])
        if answer is not None:
            self._answer(200, answer)
        return answer is not None

    def _target(self, path: str) -> Target:
        match = ROUTE.fullmatch(path)
        if match:
            group, version = match["group"] or "", match["version"] or "v1"
            for each in self.api.resources:
                if (each.group, each.version, each.plural) == (group, version, match["plural"]):
                    namespace = match["namespace"] if each.namespaced else ""
                    return Target(each, namespace, match["name"], match["sub"])
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    # -- verbs

    def _get(self, target: Target) -> None:
        if target.name is not None:
            self._answer(200, self.api.store.get(target.resource, target.namespace or "", target.name))
            return
        found, version = self.api.store.all(target.resource, self.where(target))
        items = [each for each in found if self.selected(each)]
        kind = f"{target.resource.kind}List"
        metadata = {"resourceVersion": str(version)}
        answer = {
            "kind": kind,
            "apiVersion": target.resource.api_version,
            "metadata": metadata,
            "items": items,
        }
        self._answer(200, answer)

    def _create(self, target: Target) -> None:
        if target.resource.kind == "SelfSubjectAccessReview":
            self._answer(201, self._sent() | {"status": {"allowed": self.api.allowed(self._sent()["spec"])}})
            return
        made = self.api.store.create(
            target.resource, target.namespace or "", self._sent(), self._manager(), self._dry()
        )
        if not self._dry():
            self.api.made((*target.resource.key, target.namespace or "", made["metadata"]["name"]), made)
        self._answer(201, made)

    def _update(self, target: Target) -> None:
        assert target.name is not None
        new = self._sent()
        if target.sub == "status":
            made = self.api.store.set_status(
                target.resource, target.namespace or "", target.name, **new.get("status", {})
            )
        else:
            made = self.api.store.replace(
                target.resource, target.namespace or "", target.name, new, self._manager(), self._dry()
            )
        self._answer(200, made)

    def _patch(self, target: Target) -> None:
        assert target.name is not None
        where = (target.resource, target.namespace or "", target.name)
        kind = (self.headers.get("Content-Type") or "").partition(";")[0]
        if kind == "application/apply-patch+yaml":
            force = self.query.get("force") == "true"
            made, new = self.api.store.apply(*where, self._sent(), self._manager(), force, self._dry())
            if new and not self._dry():
                self.api.made((*target.resource.key, target.namespace or "", target.name), made)
            self._answer(201 if new else 200, made)
            return
        old = self.api.store.get(*where)
        if kind == "application/json-patch+json":
            changed = kube_patch.json_patch(old, json.loads(self.body))
        elif kind == "application/strategic-merge-patch+json":
            changed = kube_patch.strategic_merge(old, self._sent())
        elif kind == "application/merge-patch+json":
            changed = kube_patch.merge_patch(old, self._sent())
        else:
            raise Refused(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}"
            )
        if target.sub == "status":
            made = self.api.store.set_status(*where, **changed.get("status", {}))
        else:
            made = self.api.store.replace(*where, changed, self._manager(), self._dry())
        self._answer(200, made)

    def _delete(self, target: Target) -> None:
        options = json.loads(self.body) if self.body else {}
        policy = options.get("propagationPolicy") or self.query.get("propagationPolicy")
        uid = options.get("preconditions", {}).get("uid")
        if target.name is None:
            found, _ = self.api.store.all(target.resource, self.where(target))
            for each in filter(self.selected, found):
                place = each["metadata"].get("namespace", "")
                self.api.store.delete(target.resource, place, each["metadata"]["name"], policy)
            self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
            return
        if self._dry():
            gone = self.api.store.get(target.resource, target.namespace or "", target.name)
        else:
            gone = self.api.store.delete(target.resource, target.namespace or "", target.name, policy, uid)
        self._answer(200, gone)

    def _sent(self) -> Object:
        if self.body.startswith(b"k8s\0"):
            raise Refused(
                415, "UnsupportedMediaType", "the stand-in reads no protobuf: kubectl apply sends JSON"
            )
        try:
            sent = yaml.safe_load(self.body)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise Refused(400, "BadRequest", f"the body is not to be read: {error}") from None
        if not isinstance(sent, dict):
            raise Refused(400, "BadRequest", "the body is no object")
        return sent

    def _manager(self) -> str:
        manager = (
            self.query.get("fieldManager") or (self.headers.get("User-Agent") or "unknown").split("/")[0]
        )
        self.api.managers.append(manager)
        return manager

    def _dry(self) -> bool:
        return "dryRun" in self.query

    def _answer(self, code: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True
