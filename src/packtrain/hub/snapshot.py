"""The files of one commit of a repository on the Hugging Face hub, in its own cache.

What is there whole is not asked for again, so that a pinned base needs no network.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import UnavailableError
from packtrain.hub.access import RepoType, can_pass, check_access, hub_errors
from packtrain.hub.staged import Pinned, bring_in
from packtrain.storage.retry import RetryPolicy

COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS_BETWEEN_SENTENCES = 10.0
#: Between two tries that brought no file; how long a try takes is the files' size, and no limit.
AGAIN = RetryPolicy(attempts=5, first_delay=1.0, deadline=math.inf)


@dataclass(frozen=True)
class Snapshot:
    folder: Path
    commit: str


def download(
    repo_id: str,
    revision: str | None,
    *,
    allow: Sequence[str],
    ignore: Sequence[str] = (),
    repo_type: RepoType = "model",
    on_progress: Callable[[str], None] | None = None,
) -> Snapshot:
    """Files that match ``allow`` and not ``ignore`` (globs over paths), of one commit.

    ``revision`` None is the main branch. Errors: those of :func:`packtrain.hub.access.check_access`.
    """
    wanted: dict[str, Any] = {
        "repo_id": repo_id,
        "repo_type": repo_type,
        "revision": revision,
        "allow_patterns": list(allow),
        "ignore_patterns": list(ignore) or None,
    }
    if revision and COMMIT.fullmatch(revision):
        cached = _cached(wanted)
        if cached is None and bring_in(Pinned(repo_id, revision, repo_type), allow, ignore, on_progress):
            cached = _cached(wanted)
        if cached is not None:
            return cached
    try:
        check_access(repo_id, revision, repo_type=repo_type)
    except UnavailableError:
        cached = _cached(wanted)
        if cached is None:
            raise
        if on_progress:
            on_progress(f"the Hugging Face hub does not answer: {repo_id} is taken from the cache")
        return cached
    if on_progress:
        on_progress(f"looking at {repo_id} on the Hugging Face hub")
    return _fetched(wanted, on_progress)


def _fetched(wanted: dict[str, Any], on_progress: Callable[[str], None] | None) -> Snapshot:
    """From the hub, tried again while that may help: files that came whole are kept.

    The client itself goes on within a file that was cut, and waits where the hub asks for it. It gives up at
    the first status of 5xx, at a connection that was reset, and at a file of another size.
    """
    from huggingface_hub import snapshot_download

    repo_id, repo_type, revision = wanted["repo_id"], wanted["repo_type"], wanted["revision"]
    blobs = Pinned(repo_id, "", repo_type).cached / "blobs"
    backoff, before = AGAIN.start(), _whole_files(blobs)
    while True:
        try:
            with hub_errors(repo_id, repo_type=repo_type, revision=revision):
                return _snapshot(snapshot_download(**wanted, tqdm_class=_bar(repo_id, on_progress)))
        except UnavailableError as error:
            now = _whole_files(blobs)
            if now > before:
                backoff.progressed()
                before = now
            if not can_pass(error) or not backoff.wait():
                raise
            if on_progress:
                on_progress(f"{error}: asking for the rest again")


def _whole_files(blobs: Path) -> int:
    """How many the cache has."""
    return sum(1 for path in blobs.glob("*") if path.suffix != ".incomplete")


def _cached(wanted: dict[str, Any]) -> Snapshot | None:
    """What the cache holds whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _snapshot(snapshot_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _snapshot(folder: str) -> Snapshot:
    """The cache names a snapshot's folder by its commit: the commit of what lies in it."""
    path = Path(folder)
    return Snapshot(path, path.name)


def _bar(repo_id: str, on_progress: Callable[[str], None] | None) -> type[Any]:
    """A progress bar class for huggingface_hub that speaks in sentences, one each ten seconds."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Sentences(tqdm):  # type: ignore[misc]
        said = time.monotonic()

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            now = time.monotonic()
            if (
                on_progress
                and self.unit == "B"
                and self.total
                and now - self.said > SECONDS_BETWEEN_SENTENCES
            ):
                Sentences.said = now
                on_progress(f"downloading {repo_id}: {self.n / 1e9:.1f} of {self.total / 1e9:.1f} GB")
            return True

        def close(self) -> None:
            """Nothing is drawn that would have to go, and there may be nobody left to speak to."""

    return Sentences
