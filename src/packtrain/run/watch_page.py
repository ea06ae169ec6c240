"""The report's page of a run as it goes, for a browser on this machine alone."""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from packtrain.errors import UsageError
from packtrain.report.page import render_run
from packtrain.run.watch_source import Watched

LOOPBACK = "127.0.0.1"
#: Seconds between two looks of a browser, while the run goes on.
REFRESH = 5


class PageServer(ThreadingHTTPServer):
    """One page, ``/``. It is rendered by :meth:`look`, not by who asks for it."""

    daemon_threads = True

    def __init__(self, watched: Watched, port: int) -> None:
        """``port`` 0: a free one. Errors: :class:`UsageError` for one that is taken."""
        self._watched, self._done = watched, threading.Event()
        self._seen: object = None
        self.page = b""
        try:
            super().__init__((LOOPBACK, port), _Page)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"port {port} of {LOOPBACK} cannot be used ({error})",
                hint="without --port a free one is taken",
            ) from error
        self.look()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/"

    def look(self) -> None:
        view = self._watched.look()
        if view != self._seen:
            refresh = None if view.over else REFRESH
            self.page = render_run(self._watched.facts(), refresh=refresh).encode()
            self._seen = view

    def keep_looking(self, every: float) -> None:
        """Serve until :meth:`close`, or Ctrl-C."""
        thread = threading.Thread(target=self.serve_forever, name="packtrain-watch-page", daemon=True)
        thread.start()
        try:
            while not self._done.wait(every):
                self.look()
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def close(self) -> None:
        self._done.set()


class _Page(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            # A page of elsewhere whose name was made to lead here must not read it.
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        if self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        page = self.server.page
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for each request says nothing."""
