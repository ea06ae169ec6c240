"""A stand-in for the Hugging Face hub on 127.0.0.1, for the real huggingface_hub and datasets clients.

It serves local folders as repositories and refuses as the hub does: the same statuses and the same
X-Error-Code headers (huggingface_hub, utils/_http.py, hf_raise_for_status, says what it reads).
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from standins.hub_faults import Cut, Fault, How, HubServer, reset_at_its_end
from standins.hub_files import commit_of, files_of, paths_info, tree, tree_entry

API = re.compile(
    r"/api/(?P<type>models|datasets)/(?P<id>[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<what>revision|tree|paths-info)/(?P<rev>[^/]+)(?:/(?P<path>.*))?|/(?P<plain>auth-check|refs))?"
)
RESOLVE = re.compile(r"/(?P<type>datasets/)?(?P<id>[^/]+(?:/[^/]+)??)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")


@dataclass
class Repo:
    """Revisions are folders; ``main`` is the default. A commit is named by the folder's content."""

    revisions: dict[str, Path]
    gated: bool = False
    private: bool = False

    def find(self, revision: str) -> tuple[str, Path] | None:
        for name, folder in self.revisions.items():
            if revision in (name, commit := commit_of(folder)):
                return commit, folder
        return None


@dataclass
class Hub:
    url: str
    repos: dict[tuple[str, str], Repo]
    """By (``models`` or ``datasets``, id)."""
    tokens: set[str] = field(default_factory=set)
    """Tokens that may see private and gated repositories."""
    known: set[str] = field(default_factory=set)
    """Tokens of users that have been let in nowhere."""
    faults: list[Fault] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """Every request as ``METHOD path``."""

    def fail(self, pattern: str, status: int, *, times: int = 1_000_000, **headers: str) -> None:
        """``headers``: with ``_`` for ``-``, such as ``Retry_After="1"``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, status, times, named))

    def cut(
        self,
        pattern: str,
        how: How = "closed",
        *,
        after: int = 1,
        times: int = 1_000_000,
    ) -> None:
        self.cuts.append(Cut(pattern, after, how, times))

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """For a child process: everything that points its Hugging Face libraries here."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})


def _repo(value: Path | dict[str, Path] | Repo) -> Repo:
    if isinstance(value, Repo):
        return value
    return Repo({"main": value} if isinstance(value, Path) else value)


@contextmanager
def serve_hub(
    models: Mapping[str, Path | dict[str, Path] | Repo] | None = None,
    datasets: Mapping[str, Path | dict[str, Path] | Repo] | None = None,
) -> Iterator[Hub]:
    """A hub with these repositories, each a folder, a dict of revisions, or a :class:`Repo`."""
    server = HubServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    repos = {("models", name): _repo(value) for name, value in (models or {}).items()}
    repos |= {("datasets", name): _repo(value) for name, value in (datasets or {}).items()}
    hub = Hub(f"http://127.0.0.1:{server.server_port}", repos)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_here(monkeypatch: pytest.MonkeyPatch, hub: Hub | str, home: Path, token: str | None = None) -> None:
    """Point the libraries of this process at ``hub`` (or a URL), with an empty cache in ``home``.

    They read their environment when they are imported, so what they made of it is changed too.
    """
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from packtrain.hub import snapshot

    url = hub if isinstance(hub, str) else hub.url
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(home))
    cache = str(home / "hub")
    for name, value in {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": cache,
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", url)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", home / "datasets")
    # Retries stay; the waits between them, up to eight seconds each, do not.
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", _NoWaiting())
    monkeypatch.setattr(snapshot, "AGAIN", replace(snapshot.AGAIN, sleep=lambda seconds: None))


class _NoWaiting:
    """The module ``time`` without its sleep."""

    def __getattr__(self, name: str) -> Any:
        import time

        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: object) -> None:
        """Quiet: tests read ``Hub.requests``."""

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        for fault in self.hub.faults:
            if fault.times > 0 and re.search(fault.pattern, path):
                fault.times -= 1
                self._send(fault.status, b"", fault.headers)
                return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens | self.hub.known:
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif match := RESOLVE.fullmatch(path):
            self._resolve(match, token)
        elif match := API.fullmatch(path):
            self._api(match, token, body)
        else:
            self._refuse(404, None, "Sorry, we can't find the page you are looking for.")

    def _repo(self, kind: str, name: str, token: str) -> Repo | None:
        """None, with the answer sent, for one that is not there or that this token may not see."""
        repo = self.hub.repos.get((kind, name))
        if repo is not None and (not repo.private or token in self.hub.tokens):
            return repo
        # Without a token the hub does not tell a private repository from none.
        self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        return None

    def _let_in(self, repo: Repo, token: str) -> bool:
        if not repo.gated or token in self.hub.tokens:
            return True
        self._refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted.")
        return False

    def _resolve(self, match: re.Match[str], token: str) -> None:
        repo = self._repo("datasets" if match["type"] else "models", match["id"], token)
        if repo is None or not self._let_in(repo, token):
            return
        found = repo.find(match["rev"])
        if found is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {match['rev']}")
            return
        commit, folder = found
        path = folder / match["path"]
        if not path.is_file() or folder not in path.parents:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        entry = tree_entry(folder, path)
        etag = entry.get("lfs", entry)["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, data, headers)
            return
        start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self._send(206, data[start : end + 1], headers)

    def _api(self, match: re.Match[str], token: str, body: bytes) -> None:
        kind, name = match["type"], match["id"]
        repo = self._repo(kind, name, token)
        if repo is None:
            return
        if match["plain"] == "auth-check":
            if self._let_in(repo, token):
                self._json({})
            return
        if match["plain"] == "refs":
            refs = [
                {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": commit_of(folder)}
                for ref, folder in repo.revisions.items()
            ]
            self._json({"branches": refs, "tags": [], "converts": []})
            return
        found = repo.find(match["rev"] or "main")
        if found is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {match['rev']}")
            return
        commit, folder = found
        if match["what"] == "tree":
            self._json(tree(folder, match["path"] or "", "recursive=true" in self.path.lower()))
        elif match["what"] == "paths-info":
            self._json(paths_info(folder, _paths(body)))
        else:
            siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files_of(folder)]
            self._json(
                {
                    "_id": commit[:24],
                    "id": name,
                    "sha": commit,
                    "private": repo.private,
                    "gated": "manual" if repo.gated else False,
                    "siblings": siblings,
                    "tags": [],
                    "downloads": 0,
                    "lastModified": "2026-01-02T03:04:05.000Z",
                }
            )

    def _refuse(
        self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | dict(headers or {})
        self._send(status, json.dumps({"error": message}).encode(), named)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        cut = self._next_cut() if self.command == "GET" and status in (200, 206) else None
        sent = data if cut is None else data[: cut.after]
        self.send_header("Content-Length", str(len(sent if cut and cut.how == "short" else data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(sent)
        if cut is None or cut.how == "short":
            return
        self.close_connection = True
        if cut.how == "reset":
            reset_at_its_end(self.connection)

    def _next_cut(self) -> Cut | None:
        path = unquote(urlsplit(self.path).path)
        for cut in self.hub.cuts:
            if cut.times > 0 and re.search(cut.pattern, path):
                cut.times -= 1
                return cut
        return None


def _paths(body: bytes) -> list[str]:
    text = body.decode()
    return list(json.loads(text)["paths"]) if text.startswith("{") else parse_qs(text).get("paths", [])
