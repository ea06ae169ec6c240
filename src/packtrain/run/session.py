"""A run from start to end, on one machine: resolves ``auto``, calls the rest in order.

Each stage leaves its result on disk, and a run that is started again goes on at the first stage
whose result is not there: training (checkpoints), the adapter (receipt), publishing (the receipt in
its place).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.artifacts.publish import publish
from packtrain.artifacts.receipt import Receipt
from packtrain.config import RunConfig
from packtrain.errors import MemoryExceededError, PacktrainError, PreemptedError
from packtrain.evaluate.answers import Answer
from packtrain.run.begin import begin
from packtrain.run.lock import Lock
from packtrain.rundir import EventWriter, Kind, RunDir, RunIdentity, history, last_attempt, write_atomically
from packtrain.runfile import RunFile, dump, load
from packtrain.storage import open_storage
from packtrain.train.preemption import StopNow, StopRequest
from packtrain.train.progress import Progress


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
    """One attempt at a run: its places, its events, and who may stop it."""

    run_file: RunFile
    run_dir: RunDir
    identity: RunIdentity
    events: EventWriter
    progress: Progress
    stop: StopRequest
    lock: Lock
    on_answers: Callable[[list[Answer]], None]
    """Shows the prompts' answers, before and after, whatever comes of them."""

    def emit(self, kind: Kind, step: int, **fields: Any) -> None:
        self.progress.event(self.events.write(kind, step, **fields))

    def stage(self, text: str) -> None:
        """A new piece of work begins, unless a stop was asked for."""
        self.stop.check()
        self.progress.stage(text)

    def warn(self, message: str, step: int = 0) -> None:
        self.emit("warning", step, message=message)

    def pinned_config(self) -> RunConfig:
        """The run file's, with the revisions that an earlier attempt pinned."""
        config = self.run_file.config
        if not self.run_dir.config_file.exists():
            return config
        earlier = load(self.run_dir.config_file).config
        return _with_revisions(config, earlier.model.revision, earlier.data.revision)

    def write_config(
        self,
        config: RunConfig,
        model_revision: str | None,
        data_revision: str | None,
        settings: dict[str, Any],
    ) -> RunConfig:
        """Pin the revisions and keep the whole, with what `auto` became, as ``config.yaml``."""
        config = _with_revisions(config, model_revision, data_revision)
        header = f"The run file as it was used; on this machine: {json.dumps(settings)}"
        write_atomically(self.run_dir.config_file, dump(config, header).encode())
        return config


def _with_revisions(config: RunConfig, model: str | None, data: str | None) -> RunConfig:
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"revision": model}),
            "data": config.data.model_copy(update={"revision": data}),
        }
    )


def run(
    run_file: RunFile,
    folder: Path,
    *,
    new: bool,
    stop: StopRequest,
    progress: Progress,
    on_answers: Callable[[list[Answer]], None],
) -> Outcome:
    """Train, check and publish what ``run_file`` asks for; ``folder`` is the run's.

    ``stop`` has been entered. ``on_answers`` gets the answers to the prompts before the adapter is
    judged by them. The same call goes on after any interruption. Errors: any of
    :mod:`packtrain.errors`, and :class:`StopNow`, which becomes one where ``stop`` is left.
    """
    config = run_file.config
    run_dir = RunDir(folder)
    identity = begin(
        run_dir, config, new=new, on_moved=lambda aside: progress.stage(f"the old run is now {aside}")
    )
    with ExitStack() as stack:
        lock = stack.enter_context(Lock(stack.enter_context(closing(open_storage(run_dir.path)))))
        stack.callback(progress.close)
        receipt = _receipt(run_dir)
        if receipt is not None and _published(run_dir, config.output.uri):
            return Outcome(run_dir.path, receipt, config.output.uri, already=True)
        attempt = last_attempt(run_dir.events_file) + 1
        events = stack.enter_context(EventWriter(run_dir.events_file, attempt))
        session = Session(run_file, run_dir, identity, events, progress, stop, lock, on_answers)
        stack.callback(stop.ignore)
        with _last_event(session):
            if receipt is None:
                # Imported here: torch and transformers take seconds, which a finished run does not need.
                from packtrain.run.training import make_adapter

                receipt = make_adapter(session)
            else:
                session.emit("start", receipt.steps, run_id=identity.run_id, resumed_from=receipt.steps)
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

    session.lock.check()
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
        told = error if isinstance(error, PreemptedError) else session.stop.error()
        session.emit("preempted", _last_step(session), signal=session.stop.signal or "", message=str(told))
        raise
    except PacktrainError as error:
        _end(session, error.exit_code, str(error))
        raise
    except Exception as error:
        if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(
            error
        ):
            message = "out of memory"
            _end(session, MemoryExceededError.exit_code, message)
            raise MemoryExceededError(
                f"{message}: {str(error).splitlines()[0] if str(error) else 'the machine has no more'}",
                hint="lower train.micro_batch or data.max_length, or set train.activation_checkpointing",
            ) from error
        _end(session, 70, f"{type(error).__name__}: {error}")
        raise


def _end(session: Session, exit_code: int, message: str) -> None:
    try:
        session.emit("end", _last_step(session), outcome="failed", exit_code=exit_code, message=message)
    except PacktrainError:
        return  # the disk is full: what brought us here is the error to show


def _last_step(session: Session) -> int:
    return max((event.step for event in history(session.run_dir.events_file)), default=0)
