"""Building on this machine, with docker, podman or buildah, and pushing the result."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from packtrain.errors import ConfigError, UnavailableError
from packtrain.gcp.ask import checked
from packtrain.gcp.commands import MAKING, Command, LiveRunner, Programs, Runner
from packtrain.gcp.image.lookup import find_digest, in_artifact_registry, resolve_base
from packtrain.gcp.image.recipe import UNKNOWN, Hear, Recipe
from packtrain.gcp.image.reference import Reference

ENGINES = ("docker", "podman", "buildah")
#: How each tells the digest of an image that only it has.
_INSPECT = {
    "docker": ("image", "inspect", "--format={{.Id}}"),
    "podman": ("image", "inspect", "--format={{.Digest}}"),
    "buildah": ("inspect", "--type=image", "--format={{.FromImageDigest}}"),
}
#: Variables in commands: the login's token, and where it is kept.
_TOKEN, AUTH = "ACCESS_TOKEN", "AUTH"


def find_engine(runner: Runner) -> str:
    """The first of docker, podman and buildah that is installed and answers: docker's daemon may be off."""
    hint = "install one of docker, podman, buildah; or leave --local out: Cloud Build needs nothing here"
    installed = [engine for engine in ENGINES if shutil.which(engine)]
    for engine in installed:
        if runner.run(Command((engine, "version"))).ok:
            return engine
    if installed:
        raise ConfigError(f"--local: {' and '.join(installed)} cannot be used: no daemon answers", hint=hint)
    raise ConfigError("--local needs docker, podman or buildah, and none of them is on PATH", hint=hint)


def build_command(engine: str, recipe: Recipe, folder: Path | str, base_digest: str | None) -> Command:
    arguments = recipe.build_arguments(base_digest or f"${UNKNOWN}")
    words = [engine, "build", "--platform=linux/amd64", f"--tag={recipe.image}"]
    words += [f"--build-arg={name}={text}" for name, text in arguments.items()]
    return Command((*words, str(folder)), values=() if base_digest else (UNKNOWN, "CONTEXT"))


def login_commands(engine: str, host: str, auth: Path | str) -> tuple[Command, Command]:
    """Gets a token from gcloud, and hands it to the engine on stdin; kept in a file of our own."""
    token = Command(("gcloud", "auth", "print-access-token"))
    words = (*_with_auth(engine, auth, "login"), "--username=oauth2accesstoken", "--password-stdin", host)
    return token, Command(words, stdin=f"${_TOKEN}", values=(_TOKEN, AUTH))


def push_command(engine: str, image: Reference, auth: Path | str | None) -> Command:
    if auth is None:  # with the login that the engine has
        return Command((engine, "push", str(image)))
    return Command((*_with_auth(engine, auth, "push"), str(image)), values=(AUTH,))


def base_digest(engine: str, base: Reference, runner: LiveRunner) -> str:
    """The base's digest from its registry; of ``localhost/…``, which is in none, from the engine."""
    if base.host != "localhost":
        return resolve_base(base, runner)
    finished = runner.run(Command((engine, *_INSPECT[engine], str(base))))
    if not finished.ok or not finished.stdout.strip():
        raise ConfigError(f"--base: {engine} has no image {base}", hint=f"{engine} images lists what it has")
    return finished.stdout.strip()


def build(engine: str, recipe: Recipe, folder: Path, digest: str, runner: LiveRunner, hear: Hear) -> None:
    """Build ``folder`` on the base with ``digest``. Errors: :class:`UnavailableError` with the last lines."""
    _heard(runner, build_command(engine, recipe, folder, digest), hear, f"{engine} cannot build the image")


def push(engine: str, image: Reference, runner: Programs, hear: Hear) -> str:
    """Push ``image``; returns the digest that its registry knows it by."""
    with tempfile.TemporaryDirectory(prefix="packtrain-login-") as folder:
        auth = None
        if in_artifact_registry(image):
            auth = Path(folder) if engine == "docker" else Path(folder) / "auth.json"
            token, login = login_commands(engine, image.host, auth)
            runner.secrets[_TOKEN] = checked(runner, token).strip()
            _heard(runner, login, hear, f"{engine} cannot log in to {image.host}")
        _heard(runner, push_command(engine, image, auth), hear, f"{engine} cannot push {image}")
    found = find_digest(image, runner)
    if found is None:
        raise UnavailableError(f"{image} was pushed, but its registry does not know it", hint="push it again")
    return found


def _with_auth(engine: str, auth: Path | str, verb: str) -> tuple[str, ...]:
    return (engine, f"--config={auth}", verb) if engine == "docker" else (engine, verb, f"--authfile={auth}")


def _heard(runner: LiveRunner, command: Command, hear: Hear, what: str) -> None:
    finished = runner.live(command, lambda line: hear(f"  {line}"), timeout=MAKING)
    if not finished.ok:
        last = "\n".join(finished.stderr.splitlines()[-12:])
        raise UnavailableError(f"{what} (exit code {finished.code})\n{last}".rstrip())
