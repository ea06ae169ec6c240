"""Whose folder this is: a new run, the same run going on, a finished one, or somebody else's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from packtrain.config import RunConfig, config_hash, differences, identity
from packtrain.errors import AccessError, ConfigError, ConflictError, StorageError
from packtrain.run.lock import Lock
from packtrain.run.pod import given_run_id
from packtrain.rundir import RunDir, RunIdentity, new_run_id, sync, timestamp
from packtrain.storage import open_storage


def begin(
    run_dir: RunDir, config: RunConfig, *, new: bool, on_moved: Callable[[Path], None] = lambda aside: None
) -> RunIdentity:
    """The identity of the run in ``run_dir``, made now if there is none.

    The same name and settings: the same run. ``new`` first moves an old run aside, whole, and tells
    ``on_moved`` where it is.
    Errors: :class:`ConfigError` naming the settings that differ; :class:`ConflictError` for a folder
    that another run, or something else, holds; :class:`AccessError` or :class:`StorageError` for one
    that cannot be written.
    """
    existing = run_dir.identity()
    if existing is not None and new:
        on_moved(_move_aside(run_dir, existing))
        existing = None
    if existing is None:
        existing = _create(run_dir, config)
    if existing.name != config.name:
        raise ConflictError(
            f"{run_dir.path} holds the run {existing.name}, not {config.name}",
            hint="name another folder with --run-dir",
        )
    check_settings(existing, config, str(run_dir.path))
    return existing


def check_settings(existing: RunIdentity, config: RunConfig, place: str) -> None:
    """Errors: :class:`ConfigError` naming the settings in which the run at ``place`` differs."""
    if existing.config_hash != config_hash(config):
        lines = differences(existing.config, json.loads(json.dumps(identity(config))))
        changed = "; ".join(lines) or "settings of another version of packtrain"
        raise ConfigError(
            f"{place} holds a run with other settings: {changed}",
            hint="give the run another name, or start another one under this name with --new",
        )


def _create(run_dir: RunDir, config: RunConfig) -> RunIdentity:
    ours = (run_dir.events_file, run_dir.adapter, run_dir.receipt_file, run_dir.checkpoints)
    taken = [path.name for path in ours if path.exists()]
    if taken:
        raise ConflictError(
            f"{run_dir.path} has {', '.join(taken)} but no run.json: it is not a run of packtrain's",
            hint="name another folder with --run-dir",
        )
    run_id = given_run_id() or new_run_id()
    made = RunIdentity(config.name, run_id, config_hash(config), identity(config), timestamp())
    try:
        run_dir.path.mkdir(parents=True, exist_ok=True)
        temporary = run_dir.path / f".run.{os.getpid()}.tmp"
        temporary.write_bytes(made.to_json())
        try:
            # A hard link fails where the name is taken: of two that start at once, one makes the identity.
            os.link(temporary, run_dir.identity_file)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        sync(run_dir.path)
    except OSError as error:
        kind = AccessError if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS} else StorageError
        raise kind(f"cannot write to {run_dir.path}: {error.strerror or error}") from error
    found = run_dir.identity()
    assert found is not None
    return found


def _move_aside(run_dir: RunDir, old: RunIdentity) -> Path:
    with closing(open_storage(run_dir.path)) as storage, Lock(storage):
        pass  # nobody writes it
    aside = run_dir.path.with_name(f"{run_dir.path.name}-{old.run_id.lower()}")
    try:
        run_dir.path.rename(aside)
    except OSError as error:
        raise StorageError(f"cannot move the old run to {aside}: {error.strerror or error}") from error
    return aside
