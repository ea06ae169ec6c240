"""A stand-in for Google Cloud's administration that the real gcloud runs against: it keeps state.

Projects, service usage, IAM, buckets, Artifact Registry, GKE and Compute Engine, each as far as
``packtrain cloud`` asks. ``cloud.fail(...)`` scripts refusals; ``cloud.requests`` has all that was asked.

    with serve_google_cloud() as cloud:
        subprocess.run(["gcloud", ...], env={**os.environ, **cloud.environment(tmp_path)})
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from standins.google_compute import compute
from standins.google_gke import gke

PROJECT, NUMBER = "my-project", "123456789012"
Json = dict[str, Any]


class Answer(Exception):
    """Ends a request: with a status and what Google's APIs say with it."""

    def __init__(self, status: int, message: str = "", reason: str = "", details: list[Json] | None = None):
        super().__init__(message)
        self.status, self.message, self.reason, self.details = status, message, reason, details or []

    def body(self) -> Json:
        said: Json = {"code": self.status, "message": self.message, "status": self.reason}
        if self.details:
            said["details"] = self.details
        said["errors"] = [{"message": self.message, "domain": "global", "reason": self.reason.lower()}]
        return {"error": said}


@dataclass
class Refusal:
    method: str
    pattern: str
    answer: Answer
    times: int


@dataclass
class GoogleCloud:
    url: str
    buckets: dict[str, Json] = field(default_factory=dict)
    objects: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    """Names of buckets that are somebody else's."""
    services: set[str] = field(default_factory=set)
    accounts: dict[str, Json] = field(default_factory=dict)
    repositories: dict[str, Json] = field(default_factory=dict)
    clusters: dict[str, Json] = field(default_factory=dict)
    networks: dict[str, Json] = field(default_factory=dict)
    """Networks, subnetworks and firewall rules by their path."""
    policies: dict[str, Json] = field(default_factory=dict)
    quotas: dict[str, float] = field(default_factory=dict)
    zones: dict[str, list[str]] = field(default_factory=dict)
    """Machine type -> zones that have it."""
    permissions: set[str] | None = None
    """What the caller may do; None: everything."""
    refusals: list[Refusal] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def fail(
        self,
        method: str,
        pattern: str,
        status: int,
        message: str,
        reason: str = "",
        times: int = 1_000_000,
        details: list[Json] | None = None,
    ) -> None:
        self.refusals.append(Refusal(method, pattern, Answer(status, message, reason, details), times))

    def policy(self, resource: str) -> Json:
        return self.policies.setdefault(resource, {"version": 1, "bindings": [], "etag": _etag(0)})

    def members(self, resource: str, role: str) -> list[str]:
        bindings = self.policies.get(resource, {}).get("bindings", [])
        return [member for binding in bindings if binding["role"] == role for member in binding["members"]]

    def changes(self) -> list[str]:
        """The requests that changed something."""
        questions = ("getIamPolicy", "testIamPermissions")
        return [
            each for each in self.requests if not each.startswith("GET ") and not each.endswith(questions)
        ]

    def environment(self, home: Path) -> dict[str, str]:
        """For gcloud: all its APIs here, nothing of the user's configuration."""
        apis = ("IAM", "CLOUDRESOURCEMANAGER", "CONTAINER", "CLOUDBUILD", "ARTIFACTREGISTRY", "SERVICEUSAGE")
        at = {f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}": f"{self.url}/" for api in apis}
        return {
            **at,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{self.url}/storage/v1/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.url}/compute/v1/",
            "CLOUDSDK_CONFIG": str(home),
            "CLOUDSDK_AUTH_ACCESS_TOKEN": "stand-in-access-token",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "NO_GCE_CHECK": "True",
        }

    def answer(self, method: str, target: str, body: Json) -> Json:
        parts = urlsplit(target)
        path, query = unquote(parts.path), parse_qs(parts.query)
        with self.lock:
            self.requests.append(f"{method} {path}")
            for refusal in self.refusals:
                if refusal.times and refusal.method in {"*", method} and re.search(refusal.pattern, path):
                    refusal.times -= 1
                    raise refusal.answer
            if path.startswith("/storage/v1/"):
                return self._storage(method, path.removeprefix("/storage/v1/"), query, body)
            if path.startswith("/compute/v1/"):
                return compute(self, method, path.removeprefix("/compute/v1/"), body)
            path = path.removeprefix("/v1/").removeprefix("/v1beta1/").lstrip("/")
            if re.search(r"/locations/[^/]+/(clusters|operations|serverConfig)", path):
                return gke(self, method, path, body)
            return self._administration(method, path, query, body)

    def _administration(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> Json:  # noqa: PLR0911  (a return a case)
        if path == f"projects/{PROJECT}":
            return {
                "projectId": PROJECT,
                "projectNumber": NUMBER,
                "lifecycleState": "ACTIVE",
                "name": PROJECT,
            }
        if path == f"projects/{PROJECT}:testIamPermissions":
            return {"permissions": self._allowed(body["permissions"])}
        if re.fullmatch(r"projects/[^/]+", path):
            raise Answer(
                403,
                "The caller does not have permission",
                "PERMISSION_DENIED",
            )
        if path.endswith("/defaultServiceAccount"):
            if "cloudbuild.googleapis.com" not in self.services:
                raise Answer(
                    403, f"Cloud Build API has not been used in project {NUMBER} before or it is disabled.",
                    "PERMISSION_DENIED",
                )  # fmt: skip
            email = f"projects/{PROJECT}/serviceAccounts/{NUMBER}-compute@developer.gserviceaccount.com"
            return {"name": path, "serviceAccountEmail": email}
        if path.endswith("/services"):
            names = sorted(self.services)
            return {"services": [_service(name) for name in names]}
        if path.endswith("/services:batchEnable"):
            self.services |= set(body["serviceIds"])
            return {"name": "operations/acat.p2-1", "done": True, "response": {}}
        if path.endswith(("IamPolicy", "IamPolicy/")):
            return self._iam(path, body)
        if "/serviceAccounts" in path:
            return self._accounts(method, path, body)
        if "/repositories" in path:
            return self._repositories(method, path, query, body)
        if path.startswith("operations/"):
            return {"name": path, "done": True, "response": {}}
        raise Answer(404, f"the stand-in does not know {method} {path}", "NOT_FOUND")

    def _allowed(self, asked: list[str]) -> list[str]:
        return [each for each in asked if self.permissions is None or each in self.permissions]

    def _iam(self, path: str, body: Json) -> Json:
        resource, _, verb = path.replace("projects/-/", f"projects/{PROJECT}/").rpartition(":")
        if resource not in self.repositories and resource not in self.accounts:
            raise Answer(404, f"{resource} was not found", "NOT_FOUND")
        return self._set(resource, body["policy"]) if verb == "setIamPolicy" else self.policy(resource)

    def _set(self, resource: str, policy: Json) -> Json:
        before = self.policy(resource)
        if policy.get("etag") not in {None, before["etag"]}:
            raise Answer(409, "There were concurrent policy changes", "ABORTED")
        count = int(base64.b64decode(before["etag"]).decode()) + 1
        self.policies[resource] = {**policy, "version": 1, "etag": _etag(count)}
        self.policies[resource].setdefault("bindings", [])
        return self.policies[resource]

    def _accounts(self, method: str, path: str, body: Json) -> Json:
        if method == "POST":
            email = f"{body['accountId']}@{PROJECT}.iam.gserviceaccount.com"
            name = f"projects/{PROJECT}/serviceAccounts/{email}"
            if name in self.accounts:
                raise Answer(409, f"Service account {body['accountId']} already exists.", "ALREADY_EXISTS")
            account = {"name": name, "email": email, "projectId": PROJECT, **body.get("serviceAccount", {})}
            self.accounts[name] = account | {"uniqueId": "1", "etag": _etag(0)}
            return self.accounts[name]
        name = path.replace("projects/-/", f"projects/{PROJECT}/")
        if name not in self.accounts:
            raise Answer(404, f"Unknown service account: {name}", "NOT_FOUND")
        if method == "DELETE":
            del self.accounts[name]
            self.policies.pop(name, None)
            return {}
        return self.accounts[name]

    def _repositories(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> Json:
        if method == "POST":
            name = f"{path}/{query['repositoryId'][0]}"
            if name in self.repositories:
                raise Answer(409, "the repository already exists", "ALREADY_EXISTS")
            self.repositories[name] = {**body, "name": name}
            return {
                "name": name.partition("/repositories")[0] + "/operations/1",
                "done": True,
                "response": {"@type": "type.googleapis.com/x", **self.repositories[name]},
            }
        if path not in self.repositories:
            raise Answer(404, f"Requested entity was not found: {path}", "NOT_FOUND")
        if method == "DELETE":
            del self.repositories[path]
            self.policies.pop(path, None)
            return {
                "name": path.partition("/repositories")[0] + "/operations/1",
                "done": True,
                "response": {},
            }
        return self.repositories[path]

    def _storage(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> Json:  # noqa: PLR0911  (a return a case)
        if path == "b":
            if body["name"] in self.buckets:
                raise Answer(
                    409,
                    "Your previous request to create the named bucket succeeded and you already own it.",
                    "conflict",
                )
            if body["name"] in self.elsewhere:
                raise Answer(
                    409,
                    "The requested bucket name is not available. The bucket namespace is shared"
                    " by all users of the system. Please select a different name and try again.",
                    "conflict",
                )
            self.buckets[body["name"]] = {**_bucket(body["name"]), **body}
            return self.buckets[body["name"]]
        bucket, _, rest = path.removeprefix("b/").partition("/")
        if bucket in self.elsewhere:
            raise Answer(
                403,
                "caller does not have storage.buckets.get access to the Google Cloud Storage"
                " bucket. Permission 'storage.buckets.get' denied on resource (or it may not exist).",
                "forbidden",
            )
        if bucket not in self.buckets:
            raise Answer(404, "The specified bucket does not exist.", "notFound")
        if rest == "iam/testPermissions":
            return {"permissions": self._allowed(query["permissions"])}
        if rest == "iam":
            name = f"b/{bucket}"
            return self._set(name, body) if method == "PUT" else self.policy(name)
        if rest == "o":
            names = self.objects.get(bucket, [])
            return {"kind": "storage#objects", "items": [_object(bucket, name) for name in names]}
        if rest.startswith("o/"):
            self.objects[bucket].remove(rest.removeprefix("o/"))
            return {}
        if method == "DELETE":
            if self.objects.get(bucket):
                raise Answer(409, "The bucket you tried to delete is not empty.", "conflict")
            del self.buckets[bucket]
            self.policies.pop(f"b/{bucket}", None)
            return {}
        if method == "PATCH":
            self.buckets[bucket] |= body
        return self.buckets[bucket]


def _etag(count: int) -> str:
    return base64.b64encode(str(count).encode()).decode()


def _service(name: str) -> Json:
    path = f"projects/{NUMBER}/services/{name}"
    return {"name": path, "config": {"name": name, "title": name}, "state": "ENABLED"}


def _bucket(name: str) -> Json:
    return {
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "metageneration": "1",
        "projectNumber": NUMBER,
        "locationType": "region",
        "storageClass": "STANDARD",
        "etag": "CAE=",
    }


def _object(bucket: str, name: str) -> Json:
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "generation": "1",
        "size": "1",
        "metageneration": "1",
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Quiet: tests read ``GoogleCloud.requests``."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        status = 200
        try:
            said = self.server.cloud.answer(self.command, self.path, json.loads(raw) if raw else {})
        except Answer as answer:
            status, said = answer.status, answer.body()
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle


class Server(ThreadingHTTPServer):
    daemon_threads = True
    cloud: GoogleCloud


@contextmanager
def serve_google_cloud() -> Iterator[GoogleCloud]:
    server = Server(("127.0.0.1", 0), Handler)
    server.cloud = GoogleCloud(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.cloud
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
