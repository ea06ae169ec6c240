"""A prefix in a Google Cloud Storage bucket, by google-cloud-storage.

Credentials are the application default ones (a login, a service account's file, Workload Identity);
with ``STORAGE_EMULATOR_HOST`` there are none. Each request is tried again here, not in the library,
so that attempts and time have a limit, and a write whose answer was lost is recognised: every write
carries a mark of its own, and a refused precondition after a lost answer is compared with it.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import google.auth
import google.auth.credentials
import google.auth.exceptions
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage as google_storage

from packtrain.errors import ConfigError, StorageError
from packtrain.rundir import sync
from packtrain.storage.base import ObjectInfo, Progress
from packtrain.storage.checksums import crc32c_bytes, crc32c_file
from packtrain.storage.gcs_errors import (
    FAILURES,
    DamagedError,
    explain,
    is_transient,
    no_bucket,
    no_credentials,
    retry_after,
    status_of,
)
from packtrain.storage.gcs_transfer import TIMEOUT, Transfer
from packtrain.storage.names import check_name
from packtrain.storage.retry import RetryPolicy

T = TypeVar("T")
MARK = "packtrain-write"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix (empty, or with a slash at its end) of ``gs://BUCKET/PREFIX``."""
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    if not BUCKET_NAME.fullmatch(bucket):
        raise ConfigError(
            f"{uri}: {bucket!r} is not the name of a bucket; write gs://BUCKET/PREFIX",
        )
    prefix = prefix.rstrip("/")
    try:
        return bucket, f"{check_name(prefix)}/" if prefix else ""
    except StorageError as error:
        raise ConfigError(f"{uri}: {error}") from error


class GcsStorage:
    """Objects under ``gs://BUCKET/PREFIX``."""

    def __init__(
        self,
        uri: str,
        *,
        retries: RetryPolicy | None = None,
        single_request: int = 8 << 20,
        chunk: int = 16 << 20,
    ) -> None:
        """``single_request``: files of at most so many bytes go in one request, larger ones in
        chunks of ``chunk`` bytes."""
        self.bucket, self.prefix = parse_uri(uri)
        self.uri = f"gs://{self.bucket}/{self.prefix}".rstrip("/")
        self._retries = retries or RetryPolicy()
        self._single_request = single_request
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        if emulator and "://" not in emulator:
            emulator = f"http://{emulator}"
        try:
            credentials, _ = (
                (google.auth.credentials.AnonymousCredentials(), None)
                if emulator
                else google.auth.default(scopes=[SCOPE])
            )
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise no_credentials(self.bucket) from error
        # Else the library asks for the bucket's own description in the background, for traces that
        # nobody collects: a right that our role does not have.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        # No request here is about a project; the client only wants to hear a name.
        self._client = google_storage.Client(
            project="packtrain",
            credentials=credentials,
            client_options={"api_endpoint": emulator} if emulator else None,
        )
        self._session = AuthorizedSession(credentials)
        self._transfer = Transfer(
            self._session, self._client.api_endpoint.rstrip("/"), self.bucket, self._retries, chunk
        )

    def close(self) -> None:
        self._client.close()
        self._session.close()

    def stat(self, name: str) -> ObjectInfo | None:
        blob = self._call(name, lambda: self._find(name))
        return self._info(blob) if blob is not None else None

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        def pages() -> list[Any]:
            blobs = self._client.list_blobs(
                self.bucket, prefix=self.prefix + prefix, retry=None, timeout=TIMEOUT
            )
            return [blob for blob in blobs if not blob.name.endswith("/")]

        try:
            blobs = self._call("", pages)
        except FileNotFoundError as error:
            raise no_bucket(self.bucket) from error
        return sorted((self._info(blob) for blob in blobs), key=lambda info: info.name)

    def read(self, name: str) -> bytes:
        def get() -> bytes:
            blob = self._blob(name)
            data: bytes = blob.download_as_bytes(
                raw_download=True, checksum="crc32c", retry=None, timeout=TIMEOUT
            )
            return data

        return self._call(name, get)

    def read_range(self, name: str, start: int, count: int, generation: int) -> bytes:
        def get() -> bytes:
            blob = self._client.bucket(self.bucket).blob(
                self.prefix + check_name(name), generation=generation
            )
            data: bytes = blob.download_as_bytes(
                start=start,
                end=start + count - 1,
                raw_download=True,
                checksum=None,
                retry=None,
                timeout=TIMEOUT,
            )
            if len(data) != count:
                raise DamagedError("fewer bytes came than were asked for")
            return data

        return self._call(name, get)

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> ObjectInfo:
        assert len(data) <= 8 << 20, "larger ones do not go in one request: upload a file"

        def send(blob: Any, generation: int | None) -> ObjectInfo:
            blob.upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum=None,  # the whole content's is in the metadata, and the server refuses another
                retry=None,
                timeout=TIMEOUT,
            )
            return self._info(blob)

        return self._put(name, crc32c_bytes(data), send, if_generation)

    def upload(
        self,
        name: str,
        path: Path,
        *,
        if_generation: int | None = None,
        on_progress: Progress | None = None,
    ) -> ObjectInfo:
        size = path.stat().st_size
        if size <= self._single_request:
            info = self.write(name, path.read_bytes(), if_generation=if_generation)
            if on_progress:
                on_progress(size)
            return info

        def send(blob: Any, generation: int | None) -> ObjectInfo:
            metadata = {"crc32c": blob.crc32c, "metadata": blob.metadata}
            answer = self._transfer.upload(blob.name, path, metadata, generation, on_progress)
            return ObjectInfo(
                name,
                int(answer["size"]),
                answer["crc32c"],
                int(answer["generation"]),
                datetime.fromisoformat(answer["updated"]).timestamp(),
            )

        return self._put(name, crc32c_file(path), send, if_generation)

    def download(self, name: str, path: Path, *, on_progress: Progress | None = None) -> ObjectInfo:
        temporary = path.with_name(f".packtrain-tmp-{uuid.uuid4().hex}")

        def get() -> ObjectInfo:
            blob = self._find(name)
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, "is not there", f"{self.uri}/{name}")
            info = self._info(blob)
            with temporary.open("wb") as file:
                self._transfer.download(blob.name, info.generation, info.size, file, on_progress)
                file.flush()
                os.fsync(file.fileno())
            if info.crc32c != crc32c_file(temporary):
                raise DamagedError("the bytes that came have another checksum")
            temporary.replace(path)
            sync(path.parent)
            return info

        try:
            return self._call(name, get)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename == f"{self.uri}/{name}":
                raise
            reason = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror
            raise StorageError(f"{path.parent}: {reason}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str, *, if_generation: int | None = None) -> None:
        def remove() -> None:
            try:
                self._blob(name).delete(if_generation_match=if_generation, retry=None, timeout=TIMEOUT)
            except FAILURES as error:
                # 412 also where nothing is there any more, for instance after an answer that was lost.
                gone = status_of(error) == 404 or (status_of(error) == 412 and self._find(name) is None)
                if not gone:
                    raise

        self._call(name, remove)

    def _put(
        self,
        name: str,
        crc32c: str,
        send: Callable[[Any, int | None], ObjectInfo],
        if_generation: int | None,
    ) -> ObjectInfo:
        mark, doubtful, expected = uuid.uuid4().hex, False, if_generation

        def attempt() -> ObjectInfo:
            nonlocal doubtful, expected
            blob = self._blob(name)
            blob.crc32c, blob.metadata = crc32c, {MARK: mark}
            try:
                written = send(blob, expected)
            except FAILURES as error:
                if doubtful and status_of(error) == 412:
                    found = self._find(name)
                    if found is not None and (found.metadata or {}).get(MARK) == mark:
                        return self._info(found)
                doubtful = doubtful or is_transient(error)
                raise
            if written.crc32c != crc32c:
                # Exactly this generation goes; what others wrote meanwhile stays.
                self.delete(name, if_generation=written.generation)
                expected = None if if_generation is None else 0
                raise DamagedError("the server stored other bytes than were sent")
            return written

        try:
            return self._call(name, attempt)
        except FileNotFoundError as error:
            if error.filename is None or not error.filename.startswith("gs://"):
                raise  # the local file
            raise no_bucket(self.bucket) from error

    def _call(self, name: str, call: Callable[[], T]) -> T:
        """``call``, tried again within the limits; what is left is one of the errors of Storage."""
        backoff = self._retries.start()
        while True:
            try:
                return call()
            except FAILURES as error:
                if not is_transient(error) or not backoff.wait(retry_after(error)):
                    raise explain(error, self.bucket, self.prefix + name) from error

    def _blob(self, name: str) -> Any:
        return self._client.bucket(self.bucket).blob(self.prefix + check_name(name))

    def _find(self, name: str) -> Any | None:
        blob = self._blob(name)
        try:
            blob.reload(retry=None, timeout=TIMEOUT)
        except FAILURES as error:
            if status_of(error) != 404 or isinstance(explain(error, self.bucket, name), StorageError):
                raise
            return None
        return blob

    def _info(self, blob: Any) -> ObjectInfo:
        return ObjectInfo(
            blob.name.removeprefix(self.prefix),
            int(blob.size),
            blob.crc32c,
            int(blob.generation),
            blob.updated.timestamp(),
        )
