"""What lies of a run in its bucket, and how a machine that knows nothing of it finds it.

``gs://BUCKET/packtrain/NAME/current.json`` says which run has the name now: a small object that
only one of several that start at once can create. ``NAME/RUN_ID/`` holds ``run.json`` (the identity),
``config.yaml``, ``events/``, ``checkpoints/`` and the lock.
"""

from __future__ import annotations

import json
from contextlib import suppress

from packtrain.errors import ConflictError, StorageError
from packtrain.run.event_mirror import restore_events
from packtrain.rundir import RunDir, RunIdentity, write_atomically
from packtrain.storage import PreconditionError, Storage, is_bucket, open_storage
from packtrain.storage.retry import RetryPolicy

CURRENT = "current.json"
IDENTITY = "run.json"
CONFIG = "config.yaml"
#: Threads that copy beside training try again by themselves: a request must not hold them for minutes
#: when a stop is asked for.
PATIENCE = RetryPolicy(attempts=3, deadline=30.0, max_delay=2.0)
#: Bytes in a request: an upload can be given up between two.
CHUNK = 8 << 20


def runs_uri(output_uri: str | None, name: str) -> str | None:
    """Where the runs of a name are, beside the output in a bucket; None for a folder."""
    if output_uri is None or not is_bucket(output_uri):
        return None
    bucket = output_uri.removeprefix("gs://").partition("/")[0]
    return f"gs://{bucket}/packtrain/{name}"


def default_run_uri(output_uri: str | None, name: str, run_id: str) -> str | None:
    """``gs://BUCKET/packtrain/NAME/RUN_ID`` for an output in a bucket; None for a folder."""
    runs = runs_uri(output_uri, name)
    return f"{runs}/{run_id}" if runs else None


def open_mirror(uri: str) -> Storage:
    """The storage at ``uri`` for what is copied beside training: it gives up early."""
    if not is_bucket(uri):
        return open_storage(uri)
    from packtrain.storage.gcs import GcsStorage

    return GcsStorage(uri, retries=PATIENCE, single_request=CHUNK, chunk=CHUNK)


def find_run(runs: Storage) -> RunIdentity | None:
    """The run that has the name now, None where there is none. ``runs``: at :func:`runs_uri`."""
    try:
        data = runs.read(CURRENT)
    except FileNotFoundError:
        return None
    try:
        run_id = str(json.loads(data)["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{runs.uri}/{CURRENT}: does not say which run this is ({error!r})",
            hint="--new starts another run under this name",
        ) from error
    found = read_identity(runs, f"{run_id}/{IDENTITY}")
    if found is None:
        raise StorageError(
            f"{runs.uri}/{run_id}/{IDENTITY}: is missing, and {CURRENT} names it",
            hint="--new starts another run under this name",
        )
    return found


def claim_run(runs: Storage, identity: RunIdentity, *, new: bool = False) -> RunIdentity:
    """Make ``identity`` the run of its name, unless there is one: then that one is returned.

    ``new``: take the name from another run, whose objects stay where they are.
    Errors: :class:`ConflictError` for two ``new`` at the same moment, and those of :class:`Storage`.
    """
    current = runs.stat(CURRENT)
    if current is not None and not new:
        found = find_run(runs)
        assert found is not None, "nobody removes it"
        return found
    # First what the pointer will point to, so that nobody ever finds it leading nowhere.
    own = runs.write(f"{identity.run_id}/{IDENTITY}", identity.to_json())
    pointer = {"run_id": identity.run_id, "config_hash": identity.config_hash}
    try:
        generation = current.generation if current is not None else 0
        runs.write(CURRENT, (json.dumps(pointer) + "\n").encode(), if_generation=generation)
    except PreconditionError as error:
        with suppress(PreconditionError):
            runs.delete(own.name, if_generation=own.generation)
        found = find_run(runs)
        if found is None or new:
            raise ConflictError(
                f"{runs.uri}: another run took this name at the same moment",
                hint="run the same command without --new to go on with that one",
            ) from error
        return found
    return identity


def claim_place(remote: Storage, identity: RunIdentity) -> RunIdentity:
    """As :func:`claim_run`, at a place that the run file names itself (``output.run_uri``)."""
    with suppress(PreconditionError):
        remote.write(IDENTITY, identity.to_json(), if_generation=0)
    found = read_identity(remote, IDENTITY)
    assert found is not None, "nobody removes it"
    return found


def read_identity(storage: Storage, name: str = IDENTITY) -> RunIdentity | None:
    """The identity in an object; None where there is none. Errors: StorageError for anything else."""
    try:
        return RunIdentity.from_json(storage.read(name))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StorageError(f"{storage.uri}/{name}: is not a run's identity ({error})") from error


def restore(run_dir: RunDir, remote: Storage) -> None:
    """Bring what a new attempt needs and this machine lacks: identity, config and events.

    Checkpoints are brought one by one, see :meth:`packtrain.train.checkpoint.CheckpointStore.newest`.
    Call it with the lock held. Errors: those of :class:`Storage`; :class:`ConflictError` where
    the folder holds another run.
    """
    there, here = read_identity(remote), run_dir.identity()
    if there is not None and here is not None and there.run_id != here.run_id:
        raise ConflictError(
            f"{run_dir.path} holds the run {here.run_id}, but {remote.uri} holds {there.run_id}",
            hint="name another folder with --run-dir",
        )
    if not run_dir.config_file.exists():
        with suppress(FileNotFoundError):
            write_atomically(run_dir.config_file, remote.read(CONFIG))
    restore_events(run_dir, remote)
    # Last: a folder with an identity has the rest of it.
    if there is not None and here is None:
        write_atomically(run_dir.identity_file, there.to_json())


def keep_config(run_dir: RunDir, remote: Storage) -> None:
    """Copy ``config.yaml``, with the revisions that this run has pinned, to the bucket."""
    data = run_dir.config_file.read_bytes()
    try:
        if remote.read(CONFIG) == data:
            return
    except FileNotFoundError:
        pass
    remote.write(CONFIG, data)
