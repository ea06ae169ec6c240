"""What an image is built from, and by which name it goes: the same for Cloud Build and for this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from packtrain import __version__
from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.gcp.image.content import DEFAULT_BASE, Context, context
from packtrain.gcp.image.reference import Reference, image_reference

#: Where the lines of a build's log go.
Hear = Callable[[str], None]
#: Stands for the base's digest in a command that is only shown.
UNKNOWN = "BASE_DIGEST"


@dataclass(frozen=True)
class Recipe:
    image: Reference
    """With the tag that it gets."""
    base: Reference
    context: Context
    project: str | None
    """Where Cloud Build builds."""
    tagged_by_content: bool
    """The tag is made from the content: an image with it need not be built again."""

    @property
    def needs_naming(self) -> bool:
        """A run finds the image only where its run file names it: the tag is of another base's content."""
        return self.tagged_by_content and str(self.base) != DEFAULT_BASE

    def pinned_base(self, digest: str) -> str:
        """The base as the build pulls it. One of this machine has no registry to pull a digest from."""
        return str(self.base) if self.base.host == "localhost" else f"{self.base.repository}@{digest}"

    def build_arguments(self, base_digest: str) -> dict[str, str]:
        """The Dockerfile's ARGs."""
        return {
            "BASE": self.pinned_base(base_digest),
            "BASE_NAME": str(self.base),
            "BASE_DIGEST": base_digest,
            "VERSION": __version__,
            "CONTENT": self.context.content,
        }


def recipe(config: RunConfig, base: str | None = None) -> Recipe:
    """The recipe of a run's image on ``base``.

    Errors: :class:`ConfigError` where the run file does not say where it goes, or names a finished image.
    """
    named = base or DEFAULT_BASE
    image = Reference.parse(image_reference(config, named))
    if image.digest:
        raise ConfigError(
            f"cluster.image: {image} has a digest, so it is built already",
            hint="leave the digest out, or the whole key",
        )
    by_content = config.cluster.image is None or Reference.parse(config.cluster.image).tag is None
    return Recipe(
        image=image,
        base=Reference.parse(named, "--base"),
        context=context(named),
        project=config.cluster.project or image.project,
        tagged_by_content=by_content,
    )
