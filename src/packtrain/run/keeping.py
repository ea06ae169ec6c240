"""Where an attempt keeps its state: the run's folder, and its place in a bucket where it has one.

On a machine that knows nothing of the run (a replacement pod), what the bucket has comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from packtrain.artifacts.publish import check_free
from packtrain.config import RunConfig
from packtrain.errors import ConflictError
from packtrain.run.begin import begin, check_settings
from packtrain.run.event_mirror import EventMirror
from packtrain.run.lock import Lock
from packtrain.run.mirror import (
    claim_place,
    claim_run,
    default_run_uri,
    find_run,
    open_mirror,
    read_identity,
    restore,
    runs_uri,
)
from packtrain.rundir import RunDir, RunIdentity, write_atomically
from packtrain.storage import Storage, is_bucket, open_storage


@dataclass
class Keeping:
    """The places of a run that this process owns for now."""

    run_dir: RunDir
    identity: RunIdentity
    lock: Lock
    """In the bucket where there is one, else in the folder."""
    remote: Storage | None
    """The run's place in a bucket, or in another folder."""
    events: EventMirror | None = None

    def mirror_events(self) -> EventMirror | None:
        """Begin to copy the events to the bucket."""
        if self.remote is not None:
            self.events = EventMirror(self.run_dir.events_file, self.remote)
        return self.events


def _is_folder(uri: str, run_dir: RunDir) -> bool:
    """Whether ``uri`` is the run's own folder, which needs no copy of itself."""
    return not is_bucket(uri) and Path(uri).resolve() == run_dir.path.resolve()


@contextmanager
def keeping(
    run_dir: RunDir, config: RunConfig, *, new: bool, on_moved: Callable[[Path], None]
) -> Iterator[Keeping]:
    """Find or make the run, and hold its lock; a ``new`` one only where its output has a place.

    Errors: :class:`ConfigError` for other settings, :class:`ConflictError` for another run or writer,
    and those of :class:`Storage`.
    """
    with ExitStack() as stack:

        def opened(uri: str) -> Storage:
            return stack.enter_context(closing(open_mirror(uri)))

        if new and config.output.uri is not None:
            # Before the old run is moved aside for one that could not be published.
            check_free(stack.enter_context(closing(open_storage(config.output.uri))), run_id="")
        runs = place = None
        if config.output.run_uri is not None and not _is_folder(config.output.run_uri, run_dir):
            place = opened(config.output.run_uri)
        elif config.output.run_uri is None and (uri := runs_uri(config.output.uri, config.name)) is not None:
            runs = opened(uri)
        bucket = runs or place
        if bucket is not None and run_dir.identity() is None and not new:
            known = find_run(runs) if runs is not None else read_identity(bucket)
            if known is not None:
                check_settings(known, config, bucket.uri)
                write_atomically(run_dir.identity_file, known.to_json())
        identity = begin(run_dir, config, new=new, on_moved=on_moved)
        local = stack.enter_context(Lock(stack.enter_context(closing(open_storage(run_dir.path)))))
        if bucket is None:
            yield Keeping(run_dir, identity, local, None)
            return
        owner = claim_place(bucket, identity) if runs is None else claim_run(runs, identity, new=new)
        if owner.run_id != identity.run_id and not run_dir.events_file.exists():
            # Two machines began at once, and the other was first: this one has done nothing yet.
            check_settings(owner, config, bucket.uri)
            write_atomically(run_dir.identity_file, owner.to_json())
            identity = owner
        if runs is not None:
            place = opened(str(default_run_uri(config.output.uri, config.name, identity.run_id)))
        assert place is not None
        if owner.run_id != identity.run_id:
            raise ConflictError(
                f"{place.uri}: the name {config.name} belongs to the run {owner.run_id} there, and "
                f"{run_dir.path} holds the run {identity.run_id}",
                hint="name another folder with --run-dir to go on with that one, or --new to take the name",
            )
        lock = stack.enter_context(Lock(place))
        restore(run_dir, place)
        yield Keeping(run_dir, identity, lock, place)
