"""Building with Cloud Build: submitted, followed with its log, and its end told in a sentence.

gcloud's own way of waiting reads the log from a fixed place and loses the build with the connection;
here the build is asked about until it has ended, and the same command finds it again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packtrain.errors import (
    AccessError,
    ConfigError,
    DataError,
    PacktrainError,
    StorageError,
    UnavailableError,
)
from packtrain.gcp.ask import ask, checked
from packtrain.gcp.commands import MAKING, Command, Runner
from packtrain.gcp.image.content import CLOUD_BUILD
from packtrain.gcp.image.recipe import UNKNOWN, Hear, Recipe
from packtrain.storage.retry import RetryPolicy

#: Seconds between two looks at a build.
INTERVAL = 5.0
#: For looks that fail: the build itself goes on meanwhile.
PATIENCE = RetryPolicy(attempts=10, deadline=600.0)
_LAST_LINES = 12
_AGAIN = "the same command builds again"

#: What a build's log says about its failure -> our error for it.
_CAUSES: tuple[tuple[str, type[PacktrainError], str, str], ...] = (
    (
        r"storage\.objects\.(?:get|list)",
        AccessError,
        "Cloud Build's service account may not read what it is to build",
        "packtrain cloud setup RUN gives {account} the role roles/storage.objectViewer on its bucket",
    ),
    (
        r"uploadArtifacts|denied: Permission|403 Forbidden",
        AccessError,
        "Cloud Build's service account may not push to {repository}",
        "packtrain cloud setup RUN gives {account} the role roles/artifactregistry.writer on the repository",
    ),
    (
        r"name unknown: Repository|Repository \S+ not found|NAME_UNKNOWN",
        ConfigError,
        "the repository of {repository} is not there",
        "make it: packtrain cloud setup RUN",
    ),
    (
        r"the base has Python [\d.]+; [^\n]*",
        ConfigError,
        "--base: {found}",
        "take a base with Python 3.11 and pip",
    ),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES",
        DataError,
        "a package from the index is not the one that the lock file names",
        "a mirror or a proxy may have changed it; nothing was built",
    ),
    (r"[Nn]o space left on device", StorageError, "the build's disk is full", _AGAIN),
    (r"toomanyrequests|429 Too Many Requests", UnavailableError, "a registry has had too many pulls", _AGAIN),
)
_ENDS = {
    "TIMEOUT": "took longer than it may",
    "CANCELLED": "was cancelled",
    "EXPIRED": "waited too long for a machine",
    "INTERNAL_ERROR": "ended by an error of Cloud Build's own",
}


def submit_command(recipe: Recipe, folder: Path | str, base_digest: str | None) -> Command:
    """Submits the build of ``folder``; without ``base_digest`` it stands there as a variable, to be shown."""
    arguments = recipe.build_arguments(base_digest or f"${UNKNOWN}")
    substitutions = {"_IMAGE": str(recipe.image)} | {f"_{name}": text for name, text in arguments.items()}
    joined = ",".join(f"{name}={text}" for name, text in substitutions.items())
    words = ("gcloud", "builds", "submit", str(folder), f"--config={folder}/{CLOUD_BUILD}")
    options = ("--async", f"--substitutions={joined}", f"--project={recipe.project}", "--format=json")
    return Command((*words, *options), values=() if base_digest else (UNKNOWN, "CONTEXT"))


def ongoing_command(recipe: Recipe) -> Command:
    wanted = f'--filter=substitutions._IMAGE="{recipe.image}"'
    words = ("gcloud", "builds", "list", "--ongoing", wanted, "--limit=1")
    return Command((*words, f"--project={recipe.project}", "--format=json"))


def describe_command(build_id: str, project: str) -> Command:
    return Command(("gcloud", "builds", "describe", build_id, f"--project={project}", "--format=json"))


def log_command(build: dict[str, Any]) -> Command:
    return Command(("gcloud", "storage", "cat", f"{build['logsBucket']}/log-{build['id']}.txt"))


def build(
    recipe: Recipe,
    folder: Path,
    base_digest: str,
    runner: Runner,
    hear: Hear,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, str]:
    """Build ``folder``, or follow the build of the same image that runs; returns its digest and the
    build's id.

    Errors: one of ours for each way in which gcloud or the build can fail.
    """
    if recipe.project is None:
        raise ConfigError(
            "Cloud Build has no project to build in", hint="set cluster.project, or build here with --local"
        )
    running = ask(runner, ongoing_command(recipe))
    if running:
        started = running[0]
        hear(f"build {started['id']} of the same image is running already; following it")
    else:
        command = submit_command(recipe, folder, base_digest)
        started = json.loads(checked(runner, command, timeout=MAKING))
        hear(f"build {started['id']}: {started.get('logUrl', 'no page')}")
    try:
        ended = follow(started["id"], recipe.project, runner, hear, sleep=sleep)
    except KeyboardInterrupt:
        hear(
            f"the build goes on; the same command follows it again, and it is stopped by: "
            f"gcloud builds cancel {started['id']} --project={recipe.project}"
        )
        raise
    return built_digest(ended, recipe), str(ended["id"])


def follow(
    build_id: str, project: str, runner: Runner, hear: Hear, *, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Waits until the build has ended, shows its log, and returns it with the log under ``"log"``."""
    heard, status, backoff = "", "", PATIENCE.start()
    while True:
        try:
            told = json.loads(checked(runner, describe_command(build_id, project)))
            backoff.progressed()
        except UnavailableError as error:
            hear(f"Cloud Build cannot be asked now: {error}")
            if not backoff.wait():
                raise
            continue
        over = told["status"] not in ("STATUS_UNKNOWN", "PENDING", "QUEUED", "WORKING")
        if told["status"] != "QUEUED" and told.get("logsBucket"):
            heard = _show_new(runner, told, heard, hear, over)
        if told["status"] != status:
            status = told["status"]
            hear(f"build {build_id}: {status.lower()}")
        if over:
            return {**told, "log": heard}
        sleep(INTERVAL)


def _show_new(runner: Runner, build: dict[str, Any], heard: str, hear: Hear, over: bool) -> str:
    """Hears the lines of the log that are new. A log that cannot be read is no failure of the build."""
    read = runner.run(log_command(build))
    if not read.ok or not read.stdout.startswith(heard):
        return heard
    new = read.stdout[len(heard) :]
    if not over:
        new = new[: new.rfind("\n") + 1]
    for line in new.splitlines():
        hear(f"  {line}")
    return heard + new


def built_digest(build: dict[str, Any], recipe: Recipe) -> str:
    """The digest of the image that ``build`` pushed. Errors: the reason why it did not."""
    if build["status"] == "SUCCESS":
        images = build.get("results", {}).get("images", [])
        found = [each["digest"] for each in images if each.get("name") == str(recipe.image)]
        if not found:
            raise UnavailableError(
                f"build {build['id']} succeeded, but tells no digest of {recipe.image}",
                hint=f"look at it: {describe_command(build['id'], str(recipe.project)).shown()}",
            )
        return str(found[0])
    raise failure(build, recipe)


def failure(build: dict[str, Any], recipe: Recipe) -> PacktrainError:
    """Our error for a build that did not succeed."""
    log, page = build["log"], build.get("logUrl", "")
    account = str(build.get("serviceAccount", "Cloud Build's service account")).rpartition("/")[2]
    detail = build.get("failureInfo", {}).get("detail", "") or build.get("statusDetail", "")
    for pattern, kind, sentence, hint in _CAUSES:
        found = re.search(pattern, f"{log}\n{detail}")
        if found:
            words = {"repository": recipe.image.repository, "account": account, "found": found[0]}
            return kind(f"{sentence.format(**words)} (build {build['id']})", hint=hint.format(**words))
    end = _ENDS.get(build["status"])
    if end:
        return UnavailableError(f"build {build['id']} {end}", hint=f"{_AGAIN}; its page: {page}")
    last = "\n".join(log.splitlines()[-_LAST_LINES:])
    return UnavailableError(
        f"build {build['id']} failed: {detail or 'a step ended badly'}{f'{chr(10)}{last}' if last else ''}",
        hint=f"its page: {page}",
    )
