"""From what a user calls a run to its folder: a folder, a run file, or a place in a bucket.

What lies in a bucket is brought to a folder that goes away again: identity, settings, events, receipt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from packtrain.artifacts.receipt import RECEIPT
from packtrain.config import RunConfig
from packtrain.errors import ConfigError, PacktrainError
from packtrain.run.budget import read_entries, total_usd
from packtrain.run.event_mirror import restore_events
from packtrain.run.mirror import CONFIG, CURRENT, IDENTITY, default_run_uri, find_run, read_identity, runs_uri
from packtrain.rundir import RunDir
from packtrain.runfile import load
from packtrain.storage import Storage, is_bucket, open_storage


@dataclass(frozen=True)
class Found:
    run_dir: RunDir
    place: str
    """What it is called: a folder, or gs://…"""
    temporary: bool
    """A copy of what is in a bucket."""
    config: RunConfig | None
    """Of the run file, where one was named."""
    spent_usd: float | None = None
    """By the run's own count, where it has one."""


@dataclass(frozen=True)
class Place:
    """A run's folder, or else its place in a bucket."""

    folder: Path | None
    uri: str | None
    config: RunConfig | None
    """Of the run file, where one was named."""


@contextmanager
def find(run: str) -> Iterator[Found]:
    """Errors: :class:`ConfigError` where there is no run, and those of :class:`Storage`."""
    place = locate(run)
    if place.folder is not None:
        yield Found(RunDir(place.folder), str(place.folder), False, place.config)
        return
    assert place.uri is not None
    with _brought(place.uri, place.config) as found:
        yield found


def locate(run: str) -> Place:
    """Errors: as of :func:`find`; whether there is a run in a folder or bucket that is named is not asked."""
    if is_bucket(run):
        return Place(None, run, None)
    path = Path(run).expanduser()
    if path.is_dir():
        return Place(path, None, None)
    if not path.exists():
        raise ConfigError(
            f"{path}: is not there", hint="name a run's folder (runs/NAME), its run file, or gs://…"
        )
    config = load(path, []).config
    here = RunDir(Path("runs") / config.name)
    uri = _place(config)
    if here.identity() is not None and (uri is None or here.events_file.exists()):
        return Place(here.path, None, config)
    if uri is None:
        raise ConfigError(
            f"{here.path}: holds no run, and nothing of {config.name} is in a bucket",
            hint="packtrain train RUN starts it; name its folder if it has another one",
        )
    return Place(None, uri, config)


def _place(config: RunConfig) -> str | None:
    """Where the run of a run file is in a bucket; None where it has none, or is not there."""
    if config.output.run_uri is not None:
        return config.output.run_uri
    runs = runs_uri(config.output.uri, config.name)
    if runs is None:
        return None
    with closing(open_storage(runs)) as storage:
        known = find_run(storage)
    return default_run_uri(config.output.uri, config.name, known.run_id) if known else None


@contextmanager
def _brought(uri: str, config: RunConfig | None) -> Iterator[Found]:
    with tempfile.TemporaryDirectory(prefix="packtrain-run-") as folder:
        run_dir = RunDir(Path(folder))
        uri = newest(uri)
        spent = bring(run_dir, uri)
        yield Found(run_dir, uri, True, config, spent)


def newest(uri: str) -> str:
    """The place of the newest run, of a place of all runs of a name; any other as it is."""
    with closing(open_storage(uri)) as storage:
        if storage.stat(CURRENT) is None:
            return uri
        known = find_run(storage)
    assert known is not None
    return f"{uri.rstrip('/')}/{known.run_id}"


def bring(run_dir: RunDir, uri: str) -> float | None:
    """What is there and not in ``run_dir`` yet; the USD that are spent, by the run's own count.

    Errors: as of :func:`find`.
    """
    with closing(open_storage(uri)) as storage:
        if read_identity(storage) is None:
            raise ConfigError(
                f"{uri}: holds no run: there is no {IDENTITY}",
                hint="a run's place is gs://BUCKET/packtrain/NAME, or output.run_uri of its run file",
            )
        _bring(run_dir, storage)
        with suppress(PacktrainError):
            entries = read_entries(storage)
            return total_usd(entries) if entries else None
    return None


def _bring(run_dir: RunDir, storage: Storage) -> None:
    for name, path in ((IDENTITY, run_dir.identity_file), (CONFIG, run_dir.config_file)):
        with suppress(FileNotFoundError):
            path.write_bytes(storage.read(name))
    restore_events(run_dir, storage)
    with suppress(PacktrainError, FileNotFoundError, OSError):
        uri = load(run_dir.config_file).config.output.uri
        if uri is not None:
            with closing(open_storage(uri)) as published:
                run_dir.receipt_file.write_bytes(published.read(RECEIPT))
