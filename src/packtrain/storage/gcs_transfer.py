"""Large files to and from Google Cloud Storage, each going on where it was cut.

The client library repeats a chunk blindly and gives up where the server has kept only a part of it
(a 308 with a shorter range); here the server is asked what it holds. Protocol:
https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import requests
from google.api_core.exceptions import from_http_response

from packtrain.storage.base import Progress
from packtrain.storage.checksums import BLOCK
from packtrain.storage.gcs_errors import (
    FAILURES,
    DamagedError,
    ExhaustedError,
    SessionLostError,
    is_transient,
    retry_after,
    status_of,
)
from packtrain.storage.retry import Backoff, RetryPolicy

#: Seconds to connect, and between two bytes of an answer.
TIMEOUT = (10.0, 60.0)


@dataclass(frozen=True)
class Transfer:
    """How bytes go between this machine and one bucket."""

    session: requests.Session
    endpoint: str
    """Such as ``https://storage.googleapis.com``."""
    bucket: str
    retries: RetryPolicy
    chunk: int = 16 << 20
    """Bytes in a request of an upload: a multiple of 256 KiB."""

    def upload(
        self,
        name: str,
        path: Path,
        metadata: dict[str, Any],
        if_generation: int | None,
        on_progress: Progress | None,
    ) -> dict[str, Any]:
        """Upload a file of at least one byte by the resumable protocol; the server's description of it."""
        session = self._initiate(name, path.stat().st_size, metadata, if_generation)
        backoff = self.retries.start()
        total, kept, ask = path.stat().st_size, 0, False
        with path.open("rb") as file:
            while True:
                try:
                    answer = self._send(session, file, kept, total, ask=ask)
                except FAILURES as error:
                    _pause(backoff, error)
                    ask = True
                    continue
                if isinstance(answer, dict):
                    if on_progress:
                        on_progress(total)
                    return answer
                if answer > kept:
                    backoff.progressed()
                elif not ask:
                    _pause(backoff, DamagedError("the server keeps nothing of what is sent"))
                kept, ask = answer, False
                if on_progress:
                    on_progress(kept)

    def _initiate(self, name: str, size: int, metadata: dict[str, Any], if_generation: int | None) -> str:
        parameters: dict[str, str | int] = {"uploadType": "resumable", "name": name}
        if if_generation is not None:
            parameters["ifGenerationMatch"] = if_generation
        response = self.session.post(
            f"{self.endpoint}/upload/storage/v1/b/{self.bucket}/o",
            params=parameters,
            data=json.dumps(metadata),
            headers={
                "Content-Type": "application/json; charset=UTF-8",
                "X-Upload-Content-Type": "application/octet-stream",
                "X-Upload-Content-Length": str(size),
            },
            timeout=TIMEOUT,
        )
        if response.status_code not in {200, 201} or "Location" not in response.headers:
            raise from_http_response(response)
        return response.headers["Location"]

    def _send(
        self, session: str, file: BinaryIO, kept: int, total: int, *, ask: bool
    ) -> dict[str, Any] | int:
        """Send the next chunk, or only ask; the finished object, or how many bytes the server has."""
        if ask:
            data, span = b"", f"bytes */{total}"
        else:
            file.seek(kept)
            data = file.read(self.chunk)
            if not data:
                raise DamagedError("the file became shorter while it was sent")
            span = f"bytes {kept}-{kept + len(data) - 1}/{total}"
        response = self.session.put(
            session, data=data, headers={"Content-Range": span}, timeout=TIMEOUT, allow_redirects=False
        )
        if response.status_code in {200, 201}:
            answer: dict[str, Any] = response.json()
            return answer
        if response.status_code == 308:
            match = re.fullmatch(r"bytes=0-(\d+)", response.headers.get("Range", ""))
            return int(match[1]) + 1 if match else 0
        if response.status_code in {404, 410}:
            raise SessionLostError("the upload's session is gone")
        raise from_http_response(response)

    def download(
        self, name: str, generation: int, size: int, file: BinaryIO, on_progress: Progress | None
    ) -> None:
        """The bytes of one generation into ``file``, which is at its beginning."""
        backoff = self.retries.start()
        while file.tell() < size:
            before = file.tell()
            try:
                self._receive(name, generation, file, on_progress)
            except FAILURES as error:
                if file.tell() > before:
                    backoff.progressed()
                _pause(backoff, error)

    def _receive(self, name: str, generation: int, file: BinaryIO, on_progress: Progress | None) -> None:
        with self.session.get(
            f"{self.endpoint}/download/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}"
            f"?alt=media&generation={generation}",
            # gzip: objects that are stored compressed come as they are, so that sizes and checksums hold.
            headers={"Range": f"bytes={file.tell()}-", "Accept-Encoding": "gzip"},
            stream=True,
            timeout=TIMEOUT,
        ) as response:
            if response.status_code not in {200, 206}:
                raise from_http_response(response)
            if response.status_code == 200:
                file.seek(0)
                file.truncate()
            before = file.tell()
            for block in response.raw.stream(BLOCK, decode_content=False):
                file.write(block)
                if on_progress:
                    on_progress(file.tell())
            if file.tell() == before:
                raise DamagedError("the server sends nothing")


def _pause(backoff: Backoff, error: Exception) -> None:
    """Wait before another try, or raise: wrapped what used up the retries, at once what does not pass
    and what needs the whole transfer anew (400 is a refused checksum)."""
    if isinstance(error, SessionLostError) or status_of(error) == 400 or not is_transient(error):
        raise error
    if not backoff.wait(retry_after(error)):
        raise ExhaustedError(str(error)) from error
