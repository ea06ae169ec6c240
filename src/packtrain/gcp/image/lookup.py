"""Which digest an image has now: asked of Artifact Registry through gcloud, of others by themselves."""

from __future__ import annotations

import re
from typing import Any

from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError
from packtrain.gcp.ask import ask
from packtrain.gcp.commands import Command, Runner
from packtrain.gcp.image.content import DEFAULT_BASE
from packtrain.gcp.image.reference import Reference, image_reference
from packtrain.gcp.image.registry import Registry

_GOOGLE = re.compile(r"(?:[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io)")


def in_artifact_registry(image: Reference) -> bool:
    return bool(_GOOGLE.fullmatch(image.host))


def describe_command(image: Reference) -> Command:
    return Command(("gcloud", "artifacts", "docker", "images", "describe", str(image), "--format=json"))


def find_digest(image: Reference, runner: Runner, registry: Registry | None = None) -> str | None:
    """The digest of ``image``; None where no such image is. Errors: access and network."""
    if image.digest:
        return image.digest
    if not in_artifact_registry(image):
        return (registry or Registry()).digest(image)
    tagged = image if image.tag else Reference(image.repository, "latest")
    told: Any = ask(runner, describe_command(tagged))
    return None if told is None else str(told["image_summary"]["digest"])


def resolve_digest(config: RunConfig, runner: Runner, registry: Registry | None = None) -> str:
    """The image of a run as ``REPOSITORY@sha256:…``, which never means another one later.

    Errors: :class:`ConfigError` where it has not been built; access and network.
    """
    image = Reference.parse(image_reference(config))
    digest = find_digest(image, runner, registry)
    if digest is None:
        raise ConfigError(
            f"the image {image} is not there",
            hint="build it: packtrain image build RUN" if _is_ours(config) else "check cluster.image",
        )
    return str(image.at(digest))


def resolve_base(base: Reference, runner: Runner, registry: Registry | None = None) -> str:
    """The digest of the base image, as its registry says.

    Errors: :class:`ConfigError` where there is no such image; access and network.
    """
    try:
        digest = (registry or Registry()).digest(base)
    except AccessError:
        if not in_artifact_registry(base):
            raise
        digest = find_digest(base, runner, registry)  # with gcloud's login
    if digest is None:
        raise ConfigError(
            f"--base: {base} is not there", hint=f"such as {DEFAULT_BASE}, which is the default"
        )
    return digest


def _is_ours(config: RunConfig) -> bool:
    image = config.cluster.image
    return image is None or in_artifact_registry(Reference.parse(image))
