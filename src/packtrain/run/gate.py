"""The access gate: model, data and bucket asked, in seconds, before anything costs.

The same questions from the user's machine (``packtrain submit``) and with the pod's own rights (the
preflight pod): what one may read says nothing of what the other may.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from packtrain.config import DataConfig, RunConfig
from packtrain.errors import ConfigError, PacktrainError, StorageError
from packtrain.run.mirror import runs_uri
from packtrain.storage import is_bucket, open_storage

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Check:
    """One question and its answer."""

    name: str
    """``model``, ``data``, ``bucket``, or in the pod ``trackers``."""
    subject: str
    commit: str | None = None
    """What a model or data set of the hub is pinned to."""
    error: PacktrainError | None = None
    revision: str | None = None
    """What the run file names of it."""


def checks(config: RunConfig, *, write: bool) -> Iterator[Check]:
    """Each as it is answered. ``write``: an object is written to the buckets, read and deleted."""
    yield _asked(
        "model", config.model.source, lambda: check_model(config.model.source, config.model.revision)
    )
    from packtrain.data.pinning import named_sources

    for source, revision in named_sources(config.data):
        answer = _asked("data", source, lambda source=source, at=revision: check_data(source, at))
        yield replace(answer, revision=revision)
    for uri in bucket_places(config):
        yield _asked("bucket", uri, lambda uri=uri: check_bucket(uri, write=write))


def pin(config: RunConfig, answers: list[Check]) -> RunConfig:
    """The run file with the commits that the hub named, where it names no commit itself."""
    model = next((each.commit for each in answers if each.name == "model"), None)
    commits = {(each.subject, each.revision): each.commit for each in answers if each.name == "data"}
    return with_revisions(config, model or config.model.revision, pinned_revisions(config.data, commits))


def pinned_revisions(
    data: DataConfig, commits: Mapping[tuple[str, str | None], str | None]
) -> tuple[str | None, ...]:
    """:attr:`DataConfig.revisions` as commits, where those of the sources (name, revision) are known."""
    from packtrain.data.pinning import repositories

    if data.mixture:
        return tuple(commits.get((item.source, item.revision)) or item.revision for item in data.mixture)
    ours = repositories(data.train)
    found = {commit for (name, _), commit in commits.items() if repositories(name) == ours}
    # Of several data sets, each is pinned when the run starts: there is one revision.
    commit = found.pop() if len(ours) == 1 and len(found) == 1 else None
    return (commit or data.revision,)


def with_revisions(config: RunConfig, model: str | None, data: Sequence[str | None]) -> RunConfig:
    """``data``: as :attr:`DataConfig.revisions` are."""
    update = {"model": config.model.model_copy(update={"revision": model}), "data": config.data.pinned(data)}
    return config.model_copy(update=update)


def bucket_places(config: RunConfig) -> list[str]:
    """Where the run writes: its state, and the adapter."""
    state = config.output.run_uri or runs_uri(config.output.uri, config.name)
    return [uri for uri in dict.fromkeys((state, config.output.uri)) if uri and is_bucket(uri)]


def check_model(source: str, revision: str | None = None) -> str | None:
    """The commit of a model of the hub; None for another kind of source."""
    from packtrain.hub.access import check_access

    if source.startswith("pypi:"):
        return None
    if is_bucket(source):
        names = _names(source, "model.source")
        if not any(name.endswith(".safetensors") for name in names):
            raise ConfigError(f"model.source: {source} holds no weights (*.safetensors)")
        return None
    if Path(source).exists():
        return None
    return check_access(source, revision)


def check_data(source: str, revision: str | None = None) -> str | None:
    """The commit of a data set of the hub; None for another kind of source."""
    from packtrain.data.remote import HubId
    from packtrain.hub.access import check_access

    if is_bucket(source):
        _names(re.split(r"[*?\[]", source)[0], "data.train")
        return None
    if Path(source).exists():
        return None
    identifier = HubId.parse(source)
    if identifier is None:
        raise ConfigError(f"{source}: is neither a data set of the hub (OWNER/NAME) nor gs://BUCKET/…")
    return check_access(identifier.repository, revision, repo_type="dataset")


def check_bucket(uri: str, *, write: bool) -> None:
    """Errors: those of :class:`~packtrain.storage.Storage`."""
    with closing(open_storage(uri)) as storage:
        if not write:
            storage.stat("receipt.json")
            return
        name, data = f".packtrain-preflight-{os.urandom(6).hex()}", os.urandom(32)
        made = storage.write(name, data, if_generation=0)
        try:
            if storage.read(name) != data:
                raise StorageError(f"{uri}/{name}: is not what was written there a moment ago")
        finally:
            with suppress(FileNotFoundError):
                storage.delete(name, if_generation=made.generation)
        storage.list(name)


def _names(uri: str, key: str) -> list[str]:
    """What lies at a place in a bucket: an object, or all below a prefix."""
    bucket, _, path = uri.removeprefix("gs://").partition("/")
    with closing(open_storage(f"gs://{bucket}")) as storage:
        found = [info.name for info in storage.list(path.rstrip("/"))]
    if not found:
        raise ConfigError(f"{key}: {uri} is not there, or nothing is in it")
    return found


def _asked(name: str, subject: str, ask: object) -> Check:
    assert callable(ask)
    try:
        return Check(name, subject, ask())
    except PacktrainError as error:
        return Check(name, subject, error=error)
