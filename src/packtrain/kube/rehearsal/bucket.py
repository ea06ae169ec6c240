"""The rehearsal's stand-in for a bucket, so that pods run the code that they run against a real one.

As much of Cloud Storage's JSON API as packtrain uses: whole and resumable uploads, preconditions,
checksums, ranges, lists. It is in memory, and open to whoever is on this machine while it runs.
https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from packtrain.rundir import timestamp
from packtrain.storage.checksums import crc32c_bytes

NAME = "packtrain-rehearsal"
_OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/(.+)")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_UPLOAD = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PART = re.compile(r"bytes (?:\*|(\d+)-\d+)/(\d+)")


@dataclass(frozen=True)
class Stored:
    data: bytes
    generation: int
    updated: float
    metadata: dict[str, str]


@dataclass
class _Session:
    """An upload in parts."""

    name: str
    given: dict[str, Any]
    if_generation: int | None
    data: bytearray = field(default_factory=bytearray)


class _Answer(Exception):
    def __init__(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        self.status, self.headers = status, headers
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def _refused(status: int, message: str) -> _Answer:
    return _Answer(status, {"error": {"code": status, "message": message}})


class Bucket:
    """A server with one bucket, ``gs://packtrain-rehearsal``, while it is entered."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self._sessions: dict[str, _Session] = {}
        # The same in every rehearsal: what is made of them is the same, too.
        self._generations = itertools.count(1)
        self._lock = threading.Lock()

    def __enter__(self) -> Bucket:
        handler = type("Handler", (_Handler,), {"bucket": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def put(self, name: str, data: bytes, metadata: dict[str, str] | None = None) -> Stored:
        stored = Stored(data, next(self._generations), time.time(), metadata or {})
        self.objects[name] = stored
        return stored

    def below(self, prefix: str) -> dict[str, bytes]:
        """Contents by their names after ``prefix``."""
        with self._lock:
            return {
                name.removeprefix(prefix): stored.data
                for name, stored in sorted(self.objects.items())
                if name.startswith(prefix)
            }

    def handle(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> _Answer:
        with self._lock:
            try:
                if match := _UPLOAD.fullmatch(path):
                    self._own(match[1])
                    return self._upload(method, query, headers, body)
                if match := _OBJECT.fullmatch(path):
                    self._own(match[1])
                    return self._object(method, unquote(match[2]), query, headers)
                if (match := _LIST.fullmatch(path)) and method == "GET":
                    self._own(match[1])
                    prefix = query.get("prefix", "")
                    names = sorted(name for name in self.objects if name.startswith(prefix))
                    return _Answer(200, {"kind": "storage#objects", "items": [*map(self._resource, names)]})
            except _Answer as answer:
                return answer
        return _refused(501, f"the rehearsal's bucket does not know {method} {path}")

    def _own(self, bucket: str) -> None:
        if bucket != NAME:
            raise _refused(404, "The specified bucket does not exist.")

    def _check(self, name: str, if_generation: int | None) -> None:
        current = self.objects.get(name)
        if if_generation is not None and if_generation != (current.generation if current else 0):
            raise _refused(412, "At least one of the pre-conditions you specified did not hold.")

    def _resource(self, name: str) -> dict[str, Any]:
        stored = self.objects[name]
        return {
            "kind": "storage#object",
            "bucket": NAME,
            "name": name,
            "size": str(len(stored.data)),
            "generation": str(stored.generation),
            "crc32c": crc32c_bytes(stored.data),
            "updated": timestamp(stored.updated),
            "metadata": stored.metadata,
        }

    def _object(self, method: str, name: str, query: dict[str, str], headers: Any) -> _Answer:
        stored = self.objects.get(name)
        if stored is None or query.get("generation", str(stored.generation)) != str(stored.generation):
            return _refused(404, f"No such object: {NAME}/{name}")
        if method == "DELETE":
            self._check(name, _number(query))
            del self.objects[name]
            return _Answer(204)
        if query.get("alt") != "media":
            return _Answer(200, self._resource(name))
        told = {"X-Goog-Hash": f"crc32c={crc32c_bytes(stored.data)}"}
        span = _RANGE.fullmatch(headers.get("Range", ""))
        if span is None:
            return _Answer(200, stored.data, **told)
        first, last = int(span[1]), min(int(span[2] or len(stored.data)), len(stored.data) - 1)
        if first > last:
            return _refused(416, "the range is outside the object")
        told["Content-Range"] = f"bytes {first}-{last}/{len(stored.data)}"
        return _Answer(206, stored.data[first : last + 1], **told)

    def _upload(self, method: str, query: dict[str, str], headers: Any, body: bytes) -> _Answer:
        if method == "PUT":
            return self._part(query["upload_id"], headers, body)
        if query.get("uploadType") == "multipart":
            given, data = _two_parts(body, headers["Content-Type"])
            return self._insert(given["name"], data, given, _number(query))
        given = json.loads(body or b"{}")
        name = query.get("name") or given["name"]
        self._check(name, _number(query))
        key = f"upload-{len(self._sessions)}"
        self._sessions[key] = _Session(name, given, _number(query))
        place = f"{self.url}/upload/storage/v1/b/{NAME}/o?uploadType=resumable&upload_id={key}"
        return _Answer(200, Location=place)

    def _part(self, key: str, headers: Any, body: bytes) -> _Answer:
        session = self._sessions.get(key)
        if session is None:
            return _refused(404, "no such upload")
        span = _PART.fullmatch(headers.get("Content-Range", ""))
        if span is not None and span[1] is not None and int(span[1]) == len(session.data):
            session.data += body
        if span is not None and len(session.data) == int(span[2]):
            return self._insert(session.name, bytes(session.data), session.given, session.if_generation)
        answer = _Answer(308)
        if session.data:
            answer.headers["Range"] = f"bytes=0-{len(session.data) - 1}"
        return answer

    def _insert(self, name: str, data: bytes, given: dict[str, Any], if_generation: int | None) -> _Answer:
        self._check(name, if_generation)
        if given.get("crc32c", crc32c_bytes(data)) != crc32c_bytes(data):
            return _refused(400, "the checksum is not that of the content")
        self.put(name, data, given.get("metadata"))
        return _Answer(200, self._resource(name))


def _number(query: dict[str, str]) -> int | None:
    return int(query["ifGenerationMatch"]) if "ifGenerationMatch" in query else None


def _two_parts(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """Description and content of a multipart/related body."""
    boundary = b"--" + content_type.partition("boundary=")[2].strip("\"'").encode()
    _, first, second = body.split(boundary, 2)
    second = second[: second.rindex(b"\r\n" + boundary)]
    given: dict[str, Any] = json.loads(first.split(b"\r\n\r\n", 1)[1])
    return given, second.split(b"\r\n\r\n", 1)[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body of an answer wait 40 ms for one another
    bucket: Bucket

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        with suppress(ConnectionError):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            answer = self.bucket.handle(self.command, parts.path, query, self.headers, body)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

    do_POST = do_PUT = do_DELETE = do_GET
