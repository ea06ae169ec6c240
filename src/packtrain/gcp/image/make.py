"""From a recipe to an image in its registry: looked up, built where it is missing, and told."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import ConfigError
from packtrain.gcp.commands import Programs
from packtrain.gcp.image import cloud
from packtrain.gcp.image import local as here
from packtrain.gcp.image.lookup import describe_command, find_digest, in_artifact_registry, resolve_base
from packtrain.gcp.image.recipe import Hear, Recipe


@dataclass(frozen=True)
class Record:
    """What was built from what; the base's digest is in the image's labels too."""

    image: str
    digest: str
    content: str
    base: str
    base_digest: str | None
    """None for an image that was there already: its label ``org.opencontainers.image.base.digest`` has it."""
    built: bool
    build_id: str | None
    """Of Cloud Build."""

    @property
    def reference(self) -> str:
        """The image by its digest, which never means another one."""
        return f"{self.image.rpartition(':')[0]}@{self.digest}"

    def to_json(self) -> dict[str, Any]:
        return {"reference": self.reference, **asdict(self)}


def make(recipe: Recipe, runner: Programs, hear: Hear, *, local: bool = False) -> Record:
    """The image of ``recipe``, built unless its registry has it.

    Errors: what the registry, gcloud, the engine or the build can fail with, each a sentence.
    """
    found = find_digest(recipe.image, runner) if recipe.tagged_by_content else None
    if found is not None:
        hear(f"{recipe.image} is there already")
        return _record(recipe, found, None, None)
    engine = here.find_engine(runner) if local else None
    if engine is None and recipe.base.host == "localhost":
        raise ConfigError(
            f"--base: Cloud Build cannot pull {recipe.base} from this machine", hint="add --local"
        )
    if engine is None:
        base_digest = resolve_base(recipe.base, runner)
    else:
        base_digest = here.base_digest(engine, recipe.base, runner)
    hear(f"base: {recipe.base} is {base_digest}")
    with tempfile.TemporaryDirectory(prefix="packtrain-image-") as name:
        folder = Path(name)
        recipe.context.write(folder)
        if engine is None:
            digest, build_id = cloud.build(recipe, folder, base_digest, runner, hear)
            return _record(recipe, digest, base_digest, build_id)
        here.build(engine, recipe, folder, base_digest, runner, hear)
        return _record(recipe, here.push(engine, recipe.image, runner, hear), base_digest, None)


def _record(recipe: Recipe, digest: str, base_digest: str | None, build_id: str | None) -> Record:
    content, base = recipe.context.content, str(recipe.base)
    built = base_digest is not None
    return Record(str(recipe.image), digest, content, base, base_digest, built, build_id)


def shown(recipe: Recipe, runner: Programs, *, local: bool, folder: Path | None = None) -> str:
    """The commands that :func:`make` runs, for a person; ``runner`` only tells which engine is there.

    ``$BASE_DIGEST`` stands for what the base's registry answers, ``$CONTEXT`` for the build context.
    """
    context = "$CONTEXT" if folder is None else str(folder)
    lines = [f"# {recipe.image}", f"# on {recipe.base}"]
    if recipe.tagged_by_content and in_artifact_registry(recipe.image):
        lines.append(describe_command(recipe.image).shown())
    if not local:
        return "\n".join([*lines, cloud.submit_command(recipe, context, None).shown()])
    engine, auth = here.find_engine(runner), None
    lines.append(here.build_command(engine, recipe, context, None).shown())
    if in_artifact_registry(recipe.image):
        auth = f"${here.AUTH}"
        token, login = here.login_commands(engine, recipe.image.host, auth)
        lines += [f'ACCESS_TOKEN="$({token.shown()})"', login.shown()]
    return "\n".join([*lines, here.push_command(engine, recipe.image, auth).shown()])
