"""What Google Cloud Storage can answer: what passes by itself, and the sentence for what does not."""

from __future__ import annotations

import errno
import http.client

import google.auth.exceptions
import requests
import urllib3.exceptions
from google.api_core.exceptions import GoogleAPICallError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from packtrain.errors import AccessError, StorageError, UnavailableError
from packtrain.storage.base import PreconditionError

ROLE = "roles/storage.objectUser"
#: https://cloud.google.com/storage/docs/retry-strategy
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class DamagedError(Exception):
    """Bytes changed on the way: the checksum that the server states is not ours."""


class SessionLostError(Exception):
    """The server knows nothing any more of a resumable upload: begin it anew."""


class ExhaustedError(Exception):
    """The retries inside a transfer are used up; the cause is the last failure."""


FAILURES: tuple[type[Exception], ...] = (
    GoogleAPICallError,
    google.auth.exceptions.GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    DamagedError,
    SessionLostError,
    ExhaustedError,
)


def status_of(error: Exception) -> int | None:
    """The HTTP status in ``error``, None where no answer came."""
    if isinstance(error, GoogleAPICallError):
        return int(error.code) if error.code is not None else None
    if isinstance(error, InvalidResponse):
        return int(error.response.status_code)
    return None


def is_transient(error: Exception) -> bool:
    """Whether ``error`` can pass by itself."""
    if isinstance(error, ExhaustedError):
        return False
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return isinstance(error, google.auth.exceptions.TransportError) or error.retryable
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
        return False
    status = status_of(error)
    if status is not None:
        # A refused checksum: the bytes were damaged on the way, not where they come from.
        return status in TRANSIENT or (status == 400 and "crc32c" in str(error).lower())
    return True


def retry_after(error: Exception) -> float | None:
    """Seconds that the server asks to wait, where it does."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After") if response is not None else None
    return float(value) if value and value.isdigit() else None


def no_credentials(bucket: str) -> AccessError:
    return AccessError(
        f"gs://{bucket}: no Google Cloud credentials are found",
        hint="run: gcloud auth application-default login (in a pod: give its Kubernetes service account"
        f" {ROLE} on the bucket by Workload Identity)",
    )


def explain(error: Exception, bucket: str, name: str) -> Exception:
    """The error of ours for ``error``, which came while ``name`` (or the bucket) was worked on."""
    if isinstance(error, ExhaustedError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    place = f"gs://{bucket}/{name}".rstrip("/")
    status = status_of(error)
    if isinstance(error, DamagedError | DataCorruption) or (status == 400 and is_transient(error)):
        result: Exception = StorageError(
            f"{place}: the checksum (crc32c) differs from the server's, after retries"
        )
    elif is_transient(error):
        result = UnavailableError(
            f"{place}: Google Cloud Storage does not answer, after retries ({_said(error)})"
        )
    elif status in {401, 403} or isinstance(error, google.auth.exceptions.GoogleAuthError):
        result = _refused(error, bucket, place)
    elif status == 404 and "bucket does not exist" in str(error).lower():
        result = no_bucket(bucket)
    elif status == 404:
        result = FileNotFoundError(errno.ENOENT, "is not there", place)
    elif status == 412:
        result = PreconditionError(f"{place}: was written by somebody else meanwhile, or is there already")
    else:
        result = StorageError(f"{place}: Google Cloud Storage refuses ({_said(error)})")
    return result


def _refused(error: Exception, bucket: str, place: str) -> AccessError:
    if isinstance(error, google.auth.exceptions.DefaultCredentialsError):
        return no_credentials(bucket)
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return AccessError(
            f"{place}: the Google Cloud credentials are not accepted ({_said(error)})",
            hint="run: gcloud auth application-default login",
        )
    return AccessError(
        f"{place}: access to bucket {bucket} is refused ({_said(error)})",
        hint=f"give the account that runs this {ROLE} on the bucket: gcloud storage buckets"
        f" add-iam-policy-binding gs://{bucket} --member=… --role={ROLE}",
    )


def no_bucket(bucket: str) -> StorageError:
    return StorageError(
        f"gs://{bucket}: there is no such bucket",
        hint=f"check its name, or create it: gcloud storage buckets create gs://{bucket}",
    )


def _said(error: Exception) -> str:
    """The first line of what the server or the library said, at most 200 characters."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection, or it was cut"
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    return text.splitlines()[0][:200]
