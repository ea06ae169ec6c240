"""A container registry on loopback, as the OCI distribution specification says: what engines push to and pull
from, with the token that public registries ask everybody for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "anybody"


@dataclass
class Registry:
    host: str
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """``name:reference`` -> media type and content."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    wants_token: bool = False
    private: set[str] = field(default_factory=set)
    """Names for which no token is given."""
    busy: list[int] = field(default_factory=list)
    """Statuses that the next requests are answered with."""
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, tag: str, manifest: bytes, kind: str) -> str:
        digest = digest_of(manifest)
        for reference in (tag, digest):
            self.manifests[f"{name}:{reference}"] = (kind, manifest)
        return digest


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Quiet: tests read ``Registry.requests``."""

    def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handle(self) -> None:
        registry, parts = self.server.registry, urlsplit(self.path)
        body = self._body()
        registry.requests.append(f"{self.command} {self.path}")
        if registry.busy:
            self._say(registry.busy.pop(0))
            return
        if parts.path == "/token":
            name = parse_qs(parts.query)["scope"][0].split(":")[1]
            refused = name in registry.private
            self._say(403 if refused else 200, b"" if refused else json.dumps({"token": TOKEN}).encode())
            return
        found = re.fullmatch(r"/v2/(?P<name>.+)/(?P<what>manifests|blobs)/(?P<id>.*)", parts.path)
        if registry.wants_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            scope = f"repository:{found['name'] if found else ''}:pull"
            realm = f'Bearer realm="http://{registry.host}/token",service="stand-in",scope="{scope}"'
            self._say(401, WWW_Authenticate=realm)
        elif found is None:
            self._say(200 if parts.path == "/v2/" else 404, b"{}")
        elif found["what"] == "manifests":
            self._manifest(found["name"], found["id"], body)
        else:
            self._blob(found["name"], found["id"], parse_qs(parts.query), body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _manifest(self, name: str, reference: str, body: bytes) -> None:
        registry = self.server.registry
        if self.command == "PUT":
            digest = registry.add(name, reference, body, self.headers["Content-Type"])
            self._say(201, Docker_Content_Digest=digest, Location=self.path)
            return
        kind, content = registry.manifests.get(f"{name}:{reference}", ("", b""))
        if not kind:
            self._say(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
            return
        self._say(200, content, Content_Type=kind, Docker_Content_Digest=digest_of(content))

    def _blob(self, name: str, place: str, query: dict[str, list[str]], body: bytes) -> None:
        registry = self.server.registry
        if not place.startswith("uploads/"):
            content = registry.blobs.get(place)
            if content is None:
                self._say(404)
            else:
                self._say(200, content, Docker_Content_Digest=place, Content_Type="application/octet-stream")
            return
        upload = place.removeprefix("uploads/") or f"upload-{len(registry.uploads)}"
        content = registry.uploads.setdefault(upload, b"") + body
        registry.uploads[upload] = content
        location = f"/v2/{name}/blobs/uploads/{upload}"
        if self.command == "PUT":
            digest = query["digest"][0]
            registry.blobs[digest] = content
            self._say(201 if digest == digest_of(content) else 400, Docker_Content_Digest=digest)
            return
        self._say(202, Location=location, Range=f"0-{max(len(content) - 1, 0)}", Docker_Upload_UUID=upload)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _handle


class Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: Registry


@contextmanager
def serve_registry() -> Iterator[Registry]:
    server = Server(("127.0.0.1", 0), Handler)
    server.registry = Registry(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
