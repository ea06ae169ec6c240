"""The names of images: read, and made from a run file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.gcp.image.content import DEFAULT_BASE, context

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._:-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*")


@dataclass(frozen=True)
class Reference:
    """``REPOSITORY[:TAG][@DIGEST]``."""

    repository: str
    """With its registry's host: ``us-central1-docker.pkg.dev/my-project/packtrain/trainer``."""
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str, key: str = "cluster.image") -> Reference:
        """``text`` of ``key``. Errors: :class:`ConfigError` for what names no image."""
        name, _, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        repository = head + slash + last
        good = _REPOSITORY.fullmatch(repository) and (not colon or _TAG.fullmatch(tag))
        if not good or ("@" in text and not _DIGEST.fullmatch(digest)):
            raise ConfigError(
                f"{key}: {text!r} is no name of an image",
                hint="such as us-central1-docker.pkg.dev/my-project/packtrain/trainer:1.0, or with @sha256:…",
            )
        return cls(repository, tag or None, digest or None)

    def __str__(self) -> str:
        return (
            f"{self.repository}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"
        )

    @property
    def host(self) -> str:
        """The registry: what is before the first slash, where that can be a host; else Docker Hub."""
        first, slash, _ = self.repository.partition("/")
        return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"

    @property
    def path(self) -> str:
        """The repository in its registry."""
        path = self.repository.removeprefix(f"{self.host}/")
        return f"library/{path}" if self.host == "docker.io" and "/" not in path else path

    @property
    def project(self) -> str | None:
        """The Google Cloud project, of an image in Artifact Registry."""
        found = re.fullmatch(r"(?P<domain>[a-z0-9.-]+\.[a-z]+/)?(?P<name>[a-z0-9-]+)/[^/]+/.+", self.path)
        if found is None or not self.host.endswith("-docker.pkg.dev"):
            return None
        return f"{(found['domain'] or '').replace('/', ':')}{found['name']}"

    def at(self, digest: str) -> Reference:
        return Reference(self.repository, None, digest)


def image_reference(config: RunConfig, base: str = DEFAULT_BASE) -> str:
    """The image that a run needs, by tag: what ``packtrain image build`` makes, without asking anybody.

    ``cluster.image`` with a tag or a digest is taken as it is; without one it is the repository, and the
    tag is made from the image's content. Errors: :class:`ConfigError` where the run file says too little.
    """
    cluster = config.cluster
    if cluster.image is not None:
        image = Reference.parse(cluster.image)
        if image.tag or image.digest:
            return str(image)
        return str(Reference(image.repository, context(base).tag))
    missing = [f"cluster.{name}" for name in ("project", "location") if getattr(cluster, name) is None]
    if missing:
        raise ConfigError(
            f"the image has no place: the run file has no {' and no '.join(missing)}",
            hint="set cluster.project and cluster.location, or name an image in cluster.image",
        )
    assert cluster.project
    assert cluster.location
    # A project of a domain is example.com:name, and example.com/name in a path.
    place = f"{region(cluster.location)}-docker.pkg.dev/{cluster.project.replace(':', '/')}"
    return str(Reference(f"{place}/packtrain/trainer", context(base).tag))


def region(location: str) -> str:
    """The region of a region or zone."""
    match = re.fullmatch(r"([a-z]+-[a-z]+\d+)(?:-[a-z])?", location)
    return match[1] if match else location
