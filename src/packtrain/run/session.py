"""A run from start to end, on one machine: resolves ``auto``, calls the rest in order.

Each stage leaves its result on disk, and a run that is started again goes on at the first stage
whose result is not there: training (checkpoints), the adapter (receipt), publishing (the receipt in
its place).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.artifacts.publish import check_free, publish
from packtrain.artifacts.receipt import RECEIPT, Receipt
from packtrain.config import RunConfig, seconds
from packtrain.errors import BugError, PacktrainError, PreemptedError
from packtrain.evaluate.answers import Answer
from packtrain.report.trackers.tracker import check_installed
from packtrain.run.gate import with_revisions
from packtrain.run.heavy import heavy_imports
from packtrain.run.keeping import Keeping, keeping
from packtrain.run.mirror import keep_config
from packtrain.run.outcome import of_the_machine, write_outcome
from packtrain.run.reports import reported
from packtrain.rundir import EventWriter, Kind, RunDir, RunIdentity, history, last_attempt, write_atomically
from packtrain.runfile import RunFile, dump, load
from packtrain.storage import open_storage
from packtrain.train.preemption import StopNow, StopRequest
from packtrain.train.progress import Progress, Silent

if TYPE_CHECKING:
    from packtrain.model.parallel import World
    from packtrain.rundir import Event
    from packtrain.train.checkpoint import CheckpointStore

#: At the end, for what is not in the bucket yet.
MIRROR_SECONDS = 60.0
#: Share of the grace until which a stop copies; the rest is for what comes after.
COPYING = 0.8


@dataclass(frozen=True)
class Outcome:
    """How a run ended well."""

    run_dir: Path
    receipt: Receipt
    published: str | None
    """Where the adapter went, None when it stays in the run's folder."""
    already: bool
    """It was finished before; nothing was done now."""


@dataclass
class Session:
    """One attempt at a run, in one process: its places, its events, and who may stop it.

    Of several ranks only the main one has places, events and lock; the others only take part.
    """

    run_file: RunFile
    run_dir: RunDir
    progress: Progress
    stop: StopRequest
    on_answers: Callable[[list[Answer]], None]
    """Shows the prompts' answers, before and after, whatever comes of them."""
    keeping: Keeping | None = None
    events: EventWriter | None = None
    began: float = field(default_factory=time.monotonic)
    on_event: Callable[[Event], None] = lambda _: None
    """Reads the events beside the progress."""
    report_failed: bool = False
    """The page could not be written, and that was told."""
    world: World | None = None
    """Of a run in several processes, joined; None before a single process knows its device."""

    @property
    def identity(self) -> RunIdentity:
        assert self.keeping is not None
        return self.keeping.identity

    def emit(self, kind: Kind, step: int, **fields: Any) -> None:
        if self.events is not None:
            event = self.events.write(kind, step, **fields)
            self.progress.event(event)
            self.on_event(event)

    def stage(self, text: str) -> None:
        """A new piece of work begins, unless a stop was asked for."""
        self.stop.check()
        self.progress.stage(text)

    def warn(self, message: str, step: int = 0) -> None:
        self.emit("warning", step, message=message)

    def check_lock(self) -> None:
        """Raise :class:`ConflictError` where another process is known to have taken the run over."""
        if self.keeping is not None:
            self.keeping.lock.raise_if_lost()

    def seconds_left(self) -> float:
        """For copying to the bucket: what a stop has left of its grace, or a minute at a normal end."""
        if self.stop.requested_at is None:
            return MIRROR_SECONDS
        grace = seconds(self.run_file.config.checkpoint.grace)
        return max(0.0, COPYING * grace - (time.monotonic() - self.stop.requested_at))

    def tell_overdue(self, error: PreemptedError) -> None:
        """The last word of a process that does not end in its grace; in another thread."""
        write_outcome(error.exit_code, str(error), error.hint)
        told = history(self.run_dir.events_file)
        if not told or told[-1].kind != "preempted":
            self.emit("preempted", _last_step(self), signal=self.stop.signal or "SIGTERM", message=str(error))

    def make_store(self) -> CheckpointStore:
        """Where this attempt's checkpoints go."""
        from packtrain.train.checkpoint import CheckpointStore, StoreExchange

        assert self.keeping is not None and self.events is not None
        lock, mirror = self.keeping.lock, self.keeping.events

        def token() -> int:
            lock.raise_if_lost()
            return lock.token

        return CheckpointStore(
            self.run_dir.checkpoints,
            keep=self.run_file.config.checkpoint.keep,
            attempt=self.events.attempt,
            warn=self.warn,
            token=token,
            remote=self.keeping.remote,
            exchange=StoreExchange() if self.world is not None else None,
            sync_events=self.events.sync,
            mirror_events=mirror.push if mirror is not None else lambda: None,
        )

    def pinned_config(self) -> RunConfig:
        """The run file's, with the revisions that an earlier attempt pinned."""
        config = self.run_file.config
        if not self.run_dir.config_file.exists():
            return config
        earlier = load(self.run_dir.config_file).config
        return with_revisions(config, earlier.model.revision, earlier.data.revisions)

    def write_config(
        self,
        config: RunConfig,
        model_revision: str | None,
        data_revisions: Sequence[str | None],
        settings: dict[str, Any],
    ) -> RunConfig:
        """Pin the revisions and keep the whole, with what `auto` became, as ``config.yaml``."""
        config = with_revisions(config, model_revision, data_revisions)
        if self.keeping is not None:
            header = f"The run file as it was used; on this machine: {json.dumps(settings)}"
            write_atomically(self.run_dir.config_file, dump(config, header).encode())
            if self.keeping.remote is not None:
                keep_config(self.run_dir, self.keeping.remote)
        return config


def run(
    run_file: RunFile,
    folder: Path,
    *,
    new: bool,
    stop: StopRequest,
    progress: Progress,
    on_answers: Callable[[list[Answer]], None],
) -> Outcome | None:
    """Train, check and publish what ``run_file`` asks for; ``folder`` is the run's.

    In one process, or as one of the ranks that torchrun's environment describes: then all but the main
    one return None. ``stop`` has been entered. ``on_answers`` gets the answers to the prompts before the
    adapter is judged by them. The same call goes on after any interruption. Errors: any of
    :mod:`packtrain.errors`, and :class:`StopNow`, which becomes one where ``stop`` is left.
    """
    check_installed(run_file.config.report.to)
    session = Session(run_file, RunDir(folder), progress, stop, on_answers)
    stop.grace, stop.on_overdue = seconds(run_file.config.checkpoint.grace), session.tell_overdue
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _lead(session, new=new)
    with stop.deferred(), heavy_imports():
        from packtrain.model.parallel import joined

    with joined() as session.world:
        if session.world.is_main:
            return _lead(session, new=new)
        session.progress = Silent()
        if session.world.broadcast(False):
            with stop.deferred(), heavy_imports():
                from packtrain.run.training import make_adapter

            make_adapter(session)
    return None


def _lead(session: Session, *, new: bool) -> Outcome:
    """What one process does for all: it holds the lock, writes the events, and publishes."""
    config, run_dir, stop = session.run_file.config, session.run_dir, session.stop
    with ExitStack() as stack:
        stack.callback(session.progress.close)
        session.keeping = stack.enter_context(
            keeping(
                run_dir,
                config,
                new=new,
                on_moved=lambda aside: session.progress.stage(f"the old run is now {aside}"),
            )
        )
        receipt = _receipt(run_dir) or _receipt_there(session)
        if receipt is None and config.output.uri is not None:
            with closing(open_storage(config.output.uri)) as destination:
                check_free(destination, session.identity.run_id)
        if session.world is not None:
            session.world.broadcast(receipt is None)
        if receipt is not None and _published(run_dir, config.output.uri):
            return Outcome(run_dir.path, receipt, config.output.uri, already=True)
        attempt = last_attempt(run_dir.events_file) + 1
        session.events = stack.enter_context(EventWriter(run_dir.events_file, attempt))
        stack.enter_context(reported(session, attempt))
        mirror = session.keeping.mirror_events()
        if mirror is not None:
            stack.callback(lambda: mirror.close(session.seconds_left()))
        stack.callback(stop.ignore)
        with _last_event(session):
            if receipt is None:
                # Imported here: torch and transformers take seconds, which a finished run does not need;
                # and not interrupted: a library whose import was cut in the middle does not recover.
                with stop.deferred(), heavy_imports(lean=not config.train.compile):
                    from packtrain.run.training import make_adapter

                receipt = make_adapter(session)
                assert receipt is not None
            else:
                session.emit("start", receipt.steps, run_id=receipt.run_id, resumed_from=receipt.steps)
            _publish(session, receipt)
            session.emit("end", receipt.steps, outcome="done", exit_code=0)
        return Outcome(run_dir.path, receipt, config.output.uri, already=False)


def _receipt(run_dir: RunDir) -> Receipt | None:
    """The receipt of an adapter that is whole; None when it is still to be made."""
    try:
        receipt = Receipt.from_json(run_dir.receipt_file.read_bytes(), str(run_dir.receipt_file))
    except FileNotFoundError:
        return None
    return receipt if not receipt.problems(run_dir.adapter) else None


def _receipt_there(session: Session) -> Receipt | None:
    """Of a run that was finished on another machine: the receipt beside its published adapter."""
    uri = session.run_file.config.output.uri
    if uri is None or session.keeping is None or session.keeping.remote is None:
        return None
    if not _published(session.run_dir, uri):
        return None
    with closing(open_storage(uri)) as published:
        try:
            receipt = Receipt.from_json(published.read(RECEIPT), f"{uri}/{RECEIPT}")
        except FileNotFoundError:
            return None
    return receipt if receipt.run_id == session.identity.run_id else None


def _published(run_dir: RunDir, uri: str | None) -> bool:
    """Whether the run's events say that it ended well with its adapter at ``uri``."""
    ended, places = False, set()
    for event in history(run_dir.events_file):
        ended = ended or (event.kind == "end" and event.fields.get("outcome") == "done")
        if event.kind == "published":
            places.add(event.fields.get("uri"))
    return ended and (uri is None or uri in places)


def _publish(session: Session, receipt: Receipt) -> None:
    uri = session.run_file.config.output.uri
    if uri is None:
        return
    session.stage(f"publishing to {uri}")
    started = time.monotonic()
    files = {name: session.run_dir.adapter / name for name in receipt.files}
    done: dict[str, int] = {}
    total = sum(facts.bytes for facts in receipt.files.values())

    def on_progress(name: str, sent: int, _size: int) -> None:
        done[name] = sent
        session.progress.tick(sum(done.values()), total)

    assert session.keeping is not None
    session.keeping.lock.check()
    with closing(open_storage(uri)) as destination:
        publish(files, receipt.to_json(), destination, session.identity.run_id, on_progress=on_progress)
    session.emit(
        "published", receipt.steps, uri=uri, seconds=round(time.monotonic() - started, 3), bytes=total
    )


@contextmanager
def _last_event(session: Session) -> Iterator[None]:
    """However an attempt ends, its last event says how."""
    try:
        yield
    except (StopNow, KeyboardInterrupt, PreemptedError) as error:
        session.stop.ignore()
        told = error if isinstance(error, PacktrainError) else session.stop.error()
        if not isinstance(told, PreemptedError):  # another rank died
            _end(session, told.exit_code, str(told))
            raise
        session.emit("preempted", _last_step(session), signal=session.stop.signal or "", message=str(told))
        raise
    except PacktrainError as error:
        _end(session, error.exit_code, str(error))
        raise
    except Exception as error:
        known = of_the_machine(error)
        if known is not None:
            _end(session, known.exit_code, str(known))
            raise known from error
        _end(session, BugError.exit_code, f"{type(error).__name__}: {error}")
        raise


def _end(session: Session, exit_code: int, message: str) -> None:
    try:
        session.emit("end", _last_step(session), outcome="failed", exit_code=exit_code, message=message)
    except PacktrainError:
        return  # the disk is full: what brought us here is the error to show


def _last_step(session: Session) -> int:
    return max((event.step for event in history(session.run_dir.events_file)), default=0)
