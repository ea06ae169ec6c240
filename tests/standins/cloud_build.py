"""A stand-in for Cloud Build and what its images go through: staging bucket, log bucket, Artifact Registry.

The real gcloud runs against it. A build goes through ``cloud.story`` one look at a time; one that ends with
``SUCCESS`` has pushed its images.

    with serve_cloud_build() as cloud:
        cloud.story = [Scene("WORKING", "Step 1\\n"), Scene("SUCCESS", "Step 1\\nDONE\\n")]
        subprocess.run(["gcloud", "builds", "submit", ...], env={**os.environ, **cloud.environment(tmp_path)})
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

PROJECT = "my-project"
STAGING, LOGS = f"{PROJECT}_cloudbuild", "123456789012.cloudbuild-logs.googleusercontent.com"
ACCOUNT = f"projects/{PROJECT}/serviceAccounts/123456789012-compute@developer.gserviceaccount.com"
Json = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """What one look at a build finds."""

    status: str
    log: str = ""
    more: Json = field(default_factory=dict)


@dataclass
class CloudBuild:
    url: str
    story: list[Scene] = field(default_factory=lambda: [Scene("SUCCESS", "DONE\n")])
    builds: dict[str, Json] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """``bucket/name`` -> content."""
    tags: dict[str, str] = field(default_factory=dict)
    """Image with its tag -> digest."""
    repositories: set[str] = field(default_factory=lambda: {"packtrain", "ml-containers"})
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """``METHOD regular expression of the path`` -> status and message."""
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def environment(self, home: Path) -> dict[str, str]:
        """For gcloud: all its APIs here, nothing of the user's configuration."""
        apis = ("CLOUDBUILD", "ARTIFACTREGISTRY", "SERVICEUSAGE", "CLOUDRESOURCEMANAGER", "IAM")
        return {
            **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}": f"{self.url}/" for api in apis},
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{self.url}/storage/v1/",
            "CLOUDSDK_CONFIG": str(home),
            "CLOUDSDK_AUTH_ACCESS_TOKEN": "stand-in-access-token",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "NO_GCE_CHECK": "True",
        }

    def source(self, build: Json) -> dict[str, bytes]:
        """The files that a build was submitted with."""
        place = build["source"]["storageSource"]
        archive = self.objects[f"{place['bucket']}/{place['object']}"]
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            found = {each.name.removeprefix("./"): tar.extractfile(each) for each in tar if each.isfile()}
            return {name: file.read() for name, file in found.items() if file}

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Json | bytes]:
        parts = urlsplit(target)
        path, query = unquote(parts.path), parse_qs(parts.query)
        with self.lock:
            self.requests.append(f"{method} {path}")
            for pattern, (status, message) in self.refusals.items():
                if re.search(pattern, f"{method} {path}"):
                    return _error(status, message)
            if "/builds" in path:
                return self._builds(method, path, body)
            if "/upload/" in path:
                return self._upload(parse_qs(parts.query), path, body)
            if path.startswith("/storage/v1/b"):
                return self._storage(path.removeprefix("/storage/v1/b").lstrip("/"), query)
            if "/repositories/" in path:
                return self._registry(path)
            return _error(404, f"the stand-in does not know {method} {path}")

    def _builds(self, method: str, path: str, body: bytes) -> tuple[int, Json]:
        if method == "POST":
            asked: Json = json.loads(body)
            number = f"build-{len(self.builds) + 1}"
            self.builds[number] = {
                **{
                    "id": number,
                    "projectId": PROJECT,
                    "status": "QUEUED",
                    "createTime": "2026-01-01T00:00:00Z",
                },
                **{"logsBucket": f"gs://{LOGS}", "logUrl": f"https://console.invalid/{number}"},
                **{"serviceAccount": ACCOUNT, **asked},
            }
            kind = "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata"
            metadata = {"@type": kind, "build": self.builds[number]}
            return 200, {"name": f"operations/build/{PROJECT}/{number}", "metadata": metadata}
        name = path.rpartition("/builds")[2].lstrip("/")
        if not name:
            ongoing = [each for each in self.builds.values() if each["status"] in ("QUEUED", "WORKING")]
            return 200, {"builds": ongoing}
        if name not in self.builds:
            return _error(404, f"build {name} was not found")
        return 200, self._played(self.builds[name])

    def _played(self, build: Json) -> Json:
        """The build after one more scene; the last one stays."""
        scene = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        build |= {"status": scene.status, **scene.more}
        if scene.log:
            self.objects[f"{LOGS}/log-{build['id']}.txt"] = scene.log.encode()
        if scene.status == "SUCCESS":
            digest = "sha256:" + hashlib.sha256(json.dumps(build["substitutions"] or {}).encode()).hexdigest()
            wanted = [self._filled(each, build) for each in build["images"]]
            build["results"] = {"images": [{"name": image, "digest": digest} for image in wanted]}
            self.tags |= dict.fromkeys(wanted, digest)
        return build

    @staticmethod
    def _filled(text: str, build: Json) -> str:
        for name, value in build["substitutions"].items():
            text = text.replace(f"${{{name}}}", value)
        return text

    def _upload(self, query: dict[str, list[str]], path: str, body: bytes) -> tuple[int, Json]:
        """A multipart upload: the object's metadata, then its content."""
        boundary = body.split(b"\r\n" if body.startswith(b"--") and b"\r\n" in body[:200] else b"\n", 1)[0]
        _, told, content, _ = body.split(boundary, 3)
        metadata = json.loads(told.replace(b"\r\n", b"\n").partition(b"\n\n")[2])
        content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
        content = content.removesuffix(b"\n").removesuffix(b"\r")
        bucket = path.partition("/b/")[2].partition("/")[0]
        name = metadata.get("name") or query["name"][0]
        self.objects[f"{bucket}/{name}"] = content
        return 200, self._object(bucket, name)

    def _storage(self, path: str, query: dict[str, list[str]]) -> tuple[int, Json | bytes]:
        if not path:
            return 200, {"kind": "storage#buckets", "items": [_bucket(STAGING)]}
        bucket, _, name = path.partition("/o/")
        if not name:
            return 200, _bucket(bucket)
        if f"{bucket}/{name}" not in self.objects:
            return _error(404, f"No such object: {bucket}/{name}")
        if query.get("alt") == ["media"]:
            return 200, self.objects[f"{bucket}/{name}"]
        return 200, self._object(bucket, name)

    def _object(self, bucket: str, name: str) -> Json:
        content = self.objects[f"{bucket}/{name}"]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()  # noqa: S324  (as Cloud Storage does)
        times = dict.fromkeys(("timeCreated", "updated"), "2026-01-01T00:00:00.000Z")
        link = f"{self.url}/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media"
        return {
            "mediaLink": link,
            **{"kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(content))},
            **{"generation": "1", "metageneration": "1", "md5Hash": md5, "storageClass": "STANDARD"},
            **{"contentType": "text/plain", "etag": "CAE=", **times},
        }

    def _registry(self, path: str) -> tuple[int, Json]:
        place = re.search(
            r"projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/repositories/(?P<name>[^/]+)"
            r"(?:/packages/(?P<package>[^/]+)/tags/(?P<tag>.+))?$",
            path,
        )
        if place is None or place["name"] not in self.repositories:
            return _error(404, f"Requested entity was not found: {path}")
        name = path.removeprefix("/v1/").partition("/packages")[0]
        if place["tag"] is None:
            return 200, {"name": name, "format": "DOCKER"}
        image = f"{place['region']}-docker.pkg.dev/{place['project']}/{place['name']}/{place['package']}"
        digest = self.tags.get(f"{image}:{place['tag']}")
        if digest is None:
            return _error(404, f"Requested entity was not found: {path}")
        package = f"{name}/packages/{place['package']}"
        return 200, {
            "name": f"{package}/tags/{place['tag']}",
            "version": f"{package}/versions/{digest}",
        }


def _bucket(name: str) -> Json:
    return {"kind": "storage#bucket", "id": name, "name": name, "location": "US", "etag": "CAE="}


def _error(status: int, message: str) -> tuple[int, Json]:
    reason = {403: "PERMISSION_DENIED", 404: "NOT_FOUND", 503: "UNAVAILABLE"}.get(status, "INTERNAL")
    return status, {"error": {"code": status, "message": message, "status": reason}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Quiet: tests read ``CloudBuild.requests``."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, said = self.server.cloud.answer(self.command, self.path, body)
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(said, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle


class Server(ThreadingHTTPServer):
    daemon_threads = True
    cloud: CloudBuild


@contextmanager
def serve_cloud_build() -> Iterator[CloudBuild]:
    server = Server(("127.0.0.1", 0), Handler)
    server.cloud = CloudBuild(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.cloud
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
