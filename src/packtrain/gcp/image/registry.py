"""Asks a registry which digest an image has: over the registry's own interface, without a login.

The protocol is the OCI distribution specification's: HEAD of a manifest, and a token for everybody where
the registry wants one. Programs for containers are not needed for that.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import NoReturn

from packtrain.errors import AccessError, ConfigError, PacktrainError, UnavailableError
from packtrain.gcp.image.reference import Reference
from packtrain.storage.retry import RetryPolicy

_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
_TOO_MANY, _SERVER = 429, 500
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Registry:
    """Registries as anybody sees them."""

    timeout: float = 20.0
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(attempts=4, deadline=60.0))

    def digest(self, image: Reference) -> str | None:
        """The digest of ``image`` now; None where there is no such image.

        Errors: :class:`AccessError` where a login is needed, :class:`UnavailableError` after retries.
        """
        if image.digest:
            return image.digest
        place = f"{_address(image.host)}/v2/{image.path}/manifests/{image.tag or 'latest'}"
        backoff = self.retry.start()
        while True:
            try:
                return self._digest(place, image)
            except UnavailableError:
                if not backoff.wait():
                    raise

    def _digest(self, place: str, image: Reference) -> str | None:
        headers = {"Accept": _MANIFESTS}
        status, answered = self._head(place, headers, image)
        if status == 401:
            token = self._token(answered.get("WWW-Authenticate", ""), image)
            status, answered = self._head(place, headers | {"Authorization": f"Bearer {token}"}, image)
        if status == 404:
            return None
        if status != 200:
            _refused(status, image)
        digest = answered.get("Docker-Content-Digest", "")
        if not _DIGEST.fullmatch(digest):
            raise UnavailableError(f"{image.host} does not tell the digest of {image}", hint=_hint(image))
        return digest

    def _head(self, place: str, headers: Mapping[str, str], image: Reference) -> tuple[int, Message]:
        request = urllib.request.Request(place, headers=dict(headers), method="HEAD")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                return answer.status, answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers
        except (OSError, HTTPException) as error:
            _unreached(error, image)

    def _token(self, challenge: str, image: Reference) -> str:
        said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = said.get("realm", "")
        if not challenge.lower().startswith("bearer ") or not realm.startswith(
            ("https://", "http://127.0.0.1")
        ):
            _refused(401, image)
        asked = {key: said[key] for key in ("service", "scope") if key in said}
        try:
            url = f"{realm}?{urllib.parse.urlencode(asked)}"
            with urllib.request.urlopen(url, timeout=self.timeout) as answer:  # noqa: S310
                told = json.load(answer)
            token = told.get("token") or told["access_token"]
        except urllib.error.HTTPError as error:
            with error:
                _refused(error.code, image)
        except (OSError, HTTPException) as error:
            _unreached(error, image)
        except (ValueError, KeyError, AttributeError):
            raise UnavailableError(f"{image.host} gives no token for {image}", hint=_hint(image)) from None
        return str(token)


def _address(host: str) -> str:
    if host == "docker.io":
        return "https://registry-1.docker.io"
    name = host.partition(":")[0]
    return f"{'http' if name in ('localhost', '127.0.0.1') else 'https'}://{host}"


def _hint(image: Reference) -> str:
    return f"name the image with its digest: {image.repository}@sha256:…"


def _unreached(error: Exception, image: Reference) -> NoReturn:
    reason = getattr(error, "reason", None) or error
    raise UnavailableError(
        f"the registry {image.host} is not reached: {reason}", hint=f"check the network, or {_hint(image)}"
    ) from None


def _refused(status: int, image: Reference) -> NoReturn:
    kind: type[PacktrainError] = ConfigError
    said = f"answers with {status} when asked for {image}"
    if status in (401, 403):
        kind, said = AccessError, f"shows {image} to nobody who is not logged in, or has no such image"
    elif status == _TOO_MANY:
        kind, said = UnavailableError, f"has had too many questions from this network ({status})"
    elif status >= _SERVER:
        kind = UnavailableError
    raise kind(f"{image.host} {said}", hint=_hint(image))
