"""What can go wrong with the stand-in hub: statuses in place of answers, and bodies that end too early."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any, Literal

How = Literal["closed", "reset", "short"]
#: Closed at once: what is on its way is dropped, and the other side gets a reset.
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass
class Fault:
    """The next ``times`` requests whose path matches are answered with ``status``."""

    pattern: str
    status: int
    times: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Cut:
    """The next ``times`` bodies of files whose path matches end after ``after`` bytes."""

    pattern: str
    after: int
    how: How
    """The connection is closed or reset in the middle; or what was sent is said to be all of it."""
    times: int


class HubServer(ThreadingHTTPServer):
    def shutdown_request(self, request: Any) -> None:
        """Without the polite end that would come before a reset."""
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_AT_ONCE)) == _AT_ONCE:
            self.close_request(request)
        else:
            super().shutdown_request(request)


def reset_at_its_end(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
