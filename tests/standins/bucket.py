"""A stand-in for Google Cloud Storage that keeps what its JSON API promises, and fails on request.

Objects with generations, preconditions on everything (resumable uploads and deletes included),
refused checksums, resumable uploads that keep multiples of 256 KiB and answer 308, pages, a clock
that tests move. ``server.faults.add(...)`` scripts what goes wrong. In a test:

    from standins.bucket import bucket_server  # noqa: F401  (the fixture)

    def test_something(bucket_server):
        storage = open_storage(bucket_server.uri("prefix"))
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import pytest

QUANTUM = 256 * 1024
OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/(.+)")
OBJECTS = re.compile(r"/storage/v1/b/([^/]+)/o")
UPLOAD = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")
BUCKET = re.compile(r"/storage/v1/b/([^/]+)")
BUCKETS = re.compile(r"/storage/v1/b")


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of, or besides, its handling."""

    status: int | None = None
    """Answer with this, without doing anything."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Read so many bytes of the body, keep what a resumable upload keeps, close the connection."""
    cut_answer: int | None = None
    """Do what is asked, send so many bytes of the answer's body (-1: no answer at all), close."""
    damage_body: bool = False
    """Flip a bit of the body before it is looked at: a checksum that was sent is then refused."""
    damage_stored: bool = False
    """Flip a bit after all checks: the server states a checksum of other bytes."""
    damage_answer: bool = False
    """Flip a bit of the media in the answer."""
    keep_only: int | None = None
    """Of a resumable chunk keep only so many bytes, and say so by 308."""
    delay: float = 0.0
    """Seconds before anything is done."""
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    """Called before, and after, the request takes effect (no answer is sent yet)."""


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
        """``method``: ``*`` for any. ``times``: None for always. ``skip``: so many matches go well first."""
        self._scripted.append(_Scripted(method, re.compile(pattern), fault, times, skip))

    def clear(self) -> None:
        self._scripted.clear()

    def take(self, method: str, target: str) -> Fault:
        with self._lock:
            for scripted in self._scripted:
                if scripted.method not in {"*", method} or not scripted.pattern.search(target):
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


@dataclass
class StoredObject:
    data: bytes
    generation: int
    updated: float
    metadata: dict[str, Any]


@dataclass
class _Session:
    bucket: str
    name: str
    metadata: dict[str, Any]
    if_generation: int | None
    data: bytearray = field(default_factory=bytearray)
    finished: dict[str, Any] | None = None


class _Answer(Exception):
    def __init__(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            self.headers["Content-Type"] = "application/json"


def _error(status: int, message: str) -> _Answer:
    return _Answer(status, {"error": {"code": status, "message": message, "errors": [{"message": message}]}})


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if data else data


class BucketServer:
    """The server, its buckets, its clock and its log of requests."""

    def __init__(self, bucket: str = "test-bucket") -> None:
        self.bucket = bucket
        self.buckets: dict[str, dict[str, StoredObject]] = {bucket: {}}
        self.sessions: dict[str, _Session] = {}
        self.faults = Faults()
        self.log: list[tuple[str, str]] = []
        self.offset = 0.0
        self.page_size = 1000
        self.lock = threading.RLock()
        self._generations = itertools.count(1_700_000_000_000_000, 7)
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def uri(self, prefix: str = "") -> str:
        return f"gs://{self.bucket}/{prefix}".rstrip("/")

    def now(self) -> float:
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the server's clock."""
        self.offset += seconds

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.buckets[self.bucket] if name.startswith(prefix))

    def data(self, name: str) -> bytes:
        return self.buckets[self.bucket][name].data

    def snapshot(self, prefix: str = "") -> dict[str, bytes]:
        return {name: self.data(name) for name in self.names(prefix)}

    def put(self, name: str, data: bytes) -> None:
        """What somebody else wrote."""
        with self.lock:
            self._store(self.bucket, name, data, {})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What the API does. All of it under the lock, so that each request is atomic.

    def check(self, bucket: str, name: str, if_generation: int | None) -> None:
        if bucket not in self.buckets:
            raise _error(404, "The specified bucket does not exist.")
        current = self.buckets[bucket].get(name)
        if if_generation is not None and if_generation != (current.generation if current else 0):
            raise _error(412, "At least one of the pre-conditions you specified did not hold.")

    def insert(
        self,
        bucket: str,
        name: str,
        data: bytes,
        metadata: dict[str, Any],
        if_generation: int | None,
        fault: Fault,
    ) -> dict[str, Any]:
        self.check(bucket, name, if_generation)
        claimed = metadata.get("crc32c")
        if claimed is not None and claimed != crc32c(data):
            raise _error(
                400, f'Provided CRC32C "{claimed}" doesn\'t match calculated CRC32C "{crc32c(data)}".'
            )
        return self._store(bucket, name, _flip(data) if fault.damage_stored else data, metadata)

    def _store(self, bucket: str, name: str, data: bytes, metadata: dict[str, Any]) -> dict[str, Any]:
        stored = StoredObject(data, next(self._generations), self.now(), metadata.get("metadata") or {})
        self.buckets[bucket][name] = stored
        return self.resource(bucket, name, stored)

    def resource(self, bucket: str, name: str, stored: StoredObject) -> dict[str, Any]:
        moment = datetime.fromtimestamp(stored.updated, UTC).isoformat(timespec="milliseconds")
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{stored.generation}",
            "bucket": bucket,
            "name": name,
            "size": str(len(stored.data)),
            "generation": str(stored.generation),
            "metageneration": "1",
            "crc32c": crc32c(stored.data),
            "md5Hash": base64.b64encode(hashlib.md5(stored.data).digest()).decode(),  # noqa: S324
            "updated": moment.replace("+00:00", "Z"),
            "timeCreated": moment.replace("+00:00", "Z"),
            "metadata": stored.metadata,
            "contentType": "application/octet-stream",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer are two writes: they must not wait for one another (40 ms).
    disable_nagle_algorithm = True
    state: BucketServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(30)

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            fault = self.state.faults.take(self.command, self.path)
            self.state.log.append((self.command, self.path))
            if fault.before:
                fault.before()
            time.sleep(fault.delay)
            if fault.cut_after is not None:
                self._keep_part(self.rfile.read(min(fault.cut_after, self._length())))
                self.close_connection = True
                return
            body = self.rfile.read(self._length())
            try:
                if fault.status is not None:
                    answer = _error(fault.status, "as scripted")
                    answer.headers |= fault.headers
                    raise answer
                with self.state.lock:
                    self._route(body, fault)
            except _Answer as given:
                answer = given
            if fault.after:
                fault.after()
            self._send(answer, fault)

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _send(self, answer: _Answer, fault: Fault) -> None:
        if fault.cut_answer == -1:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: fault.cut_answer])
        if fault.cut_answer is not None:
            self.close_connection = True

    def _route(self, body: bytes, fault: Fault) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if match := UPLOAD.fullmatch(parts.path):
            self._upload(match[1], body, fault)
        elif match := OBJECT.fullmatch(parts.path):
            self._object(match[1], unquote(match[2]), fault)
        elif (match := OBJECTS.fullmatch(parts.path)) and self.command == "GET":
            self._list(match[1])
        elif BUCKETS.fullmatch(parts.path) and self.command == "POST":
            name = json.loads(body)["name"]
            self.state.buckets.setdefault(name, {})
            raise _Answer(200, {"kind": "storage#bucket", "name": name})
        elif (match := BUCKET.fullmatch(parts.path)) and self.command == "GET":
            self.state.check(match[1], "", None)
            raise _Answer(200, {"kind": "storage#bucket", "name": match[1]})
        raise _error(501, f"the stand-in does not know {self.command} {self.path}")

    def _number(self, key: str) -> int | None:
        return int(self.query[key]) if key in self.query else None

    def _object(self, bucket: str, name: str, fault: Fault) -> None:
        state = self.state
        state.check(bucket, name, self._number("ifGenerationMatch") if self.command == "GET" else None)
        stored = state.buckets[bucket].get(name)
        if stored is None or self._number("generation") not in {None, stored.generation}:
            raise _error(404, f"No such object: {bucket}/{name}")
        if self.command == "DELETE":
            state.check(bucket, name, self._number("ifGenerationMatch"))
            del state.buckets[bucket][name]
            raise _Answer(204)
        if self.query.get("alt") != "media":
            raise _Answer(200, state.resource(bucket, name, stored))
        data = _flip(stored.data) if fault.damage_answer else stored.data
        headers = {
            "X_Goog_Hash": f"crc32c={crc32c(stored.data)}",
            "X_Goog_Generation": str(stored.generation),
            "Content_Type": "application/octet-stream",
        }
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not span:
            raise _Answer(200, data, **headers)
        first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        if first >= len(data):
            raise _error(416, "the range is outside the object")
        headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
        raise _Answer(206, data[first : last + 1], **headers)

    def _list(self, bucket: str) -> None:
        self.state.check(bucket, "", None)
        objects = self.state.buckets[bucket]
        names = sorted(name for name in objects if name.startswith(self.query.get("prefix", "")))
        begin = int(self.query.get("pageToken", 0))
        end = begin + min(int(self.query.get("maxResults", 1000)), self.state.page_size)
        page: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [self.state.resource(bucket, name, objects[name]) for name in names[begin:end]],
        }
        if end < len(names):
            page["nextPageToken"] = str(end)
        raise _Answer(200, page)

    def _upload(self, bucket: str, body: bytes, fault: Fault) -> None:
        kind = self.query.get("uploadType")
        if self.command == "PUT":
            self._chunk(body, fault)
        if_generation = self._number("ifGenerationMatch")
        if kind == "media":
            done = self.state.insert(bucket, self.query["name"], body, {}, if_generation, fault)
            raise _Answer(200, done)
        if kind == "multipart":
            metadata, data = _parts(body, self.headers["Content-Type"])
            data = _flip(data) if fault.damage_body else data
            name = self.query.get("name") or metadata["name"]
            raise _Answer(200, self.state.insert(bucket, name, data, metadata, if_generation, fault))
        if kind == "resumable":
            metadata = json.loads(body or b"{}")
            name = self.query.get("name") or metadata["name"]
            self.state.check(bucket, name, if_generation)
            key = f"session-{len(self.state.sessions)}"
            self.state.sessions[key] = _Session(bucket, name, metadata, if_generation)
            path = f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
            raise _Answer(200, Location=self.state.url + path)
        raise _error(400, f"uploadType {kind}")

    def _chunk(self, body: bytes, fault: Fault) -> None:
        session = self.state.sessions.get(self.query["upload_id"])
        if session is None:
            raise _error(404, "no such upload session")
        if session.finished is not None:
            raise _Answer(200, session.finished)
        body = _flip(body) if fault.damage_body else body
        whole = self._take(session, body[: fault.keep_only])
        if not whole or fault.keep_only is not None:
            answer = _Answer(308)
            if session.data:
                answer.headers["Range"] = f"bytes=0-{len(session.data) - 1}"
            raise answer
        metadata = dict(session.metadata)
        sent = re.search(r"crc32c=([^,]+)", self.headers.get("X-Goog-Hash", ""))
        if sent:
            metadata["crc32c"] = sent[1]
        try:
            session.finished = self.state.insert(
                session.bucket, session.name, bytes(session.data), metadata, session.if_generation, fault
            )
        except _Answer:
            del self.state.sessions[self.query["upload_id"]]
            raise
        raise _Answer(200, session.finished)

    def _take(self, session: _Session, body: bytes) -> bool:
        """Keep of a chunk what a real server keeps; whether the object is whole now."""
        span = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/(\d+|\*)", self.headers.get("Content-Range", ""))
        if span is None:
            raise _error(400, "Content-Range is missing")
        total = None if span[2] == "*" else int(span[2])
        if span[1] is not None:
            first = int(span[1])
            if first > len(session.data):
                raise _error(400, "the chunk begins after what is held")
            # Bytes at an offset that is held already are ignored.
            session.data += body[len(session.data) - first :]
        if total is not None and len(session.data) == total:
            return True
        del session.data[len(session.data) // QUANTUM * QUANTUM :]
        return False

    def _keep_part(self, body: bytes) -> None:
        """The connection broke in the middle of a body: a resumable upload keeps what came."""
        self.query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        session = self.state.sessions.get(self.query.get("upload_id", ""))
        if self.command == "PUT" and session is not None and session.finished is None:
            with self.state.lock:
                self._take(session, body)


def _parts(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """Metadata and data of a multipart/related body."""
    found = re.search(r"boundary=[\"']?([^\"';]+)", content_type)
    assert found, content_type
    boundary = f"--{found[1]}".encode()
    _, first, second = body.split(boundary, 2)
    second = second[: second.rindex(b"\r\n" + boundary)]
    return json.loads(first.split(b"\r\n\r\n", 1)[1]), second.split(b"\r\n\r\n", 1)[1]


@pytest.fixture
def bucket_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """A server with one bucket, which this process's clients find by STORAGE_EMULATOR_HOST."""
    server = BucketServer()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    yield server
    server.close()
