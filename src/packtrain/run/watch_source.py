"""A run read again and again, each time only what is new: from its folder, or its place in a bucket."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from packtrain.config import RunConfig
from packtrain.errors import ConfigError, PacktrainError, StorageError
from packtrain.report.facts import RunFacts, read_facts
from packtrain.report.story import Story, gather, take
from packtrain.run.log_mirror import read_logs
from packtrain.run.watch_view import EVENTS, Standing, Told, View, make_view
from packtrain.run.where import bring, locate, newest
from packtrain.rundir import Event, RunDir, SoFar, parse_events, stream
from packtrain.storage import open_storage
from packtrain.train.progress import describe

#: Bytes that are read of the events file at a time.
_BLOCK = 1 << 20


class EventTail:
    """The story of an events file that grows; each event is taken once, unless a resume takes some back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self.story = Story()
        self.told: deque[Told] = deque(maxlen=EVENTS)
        """The last events that say something to a person, but for steps."""
        self._offset, self._last = 0, b""
        self._so_far = SoFar()

    def read(self) -> bool:
        """Take what is new; whether anything was. A file that is not there is one without events."""
        before = self.story
        count = before.events
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._last))
                if file.read(len(self._last)) != self._last:  # another run, or events put in between
                    self._begin()
                    file.seek(0)
                # What is being written at this moment is for the next time.
                while block := file.readlines(_BLOCK):
                    torn = not block[-1].endswith(b"\n")
                    if not self._take(block[:-1] if torn else block):
                        self._again()
                    if torn or self.story is not before:
                        break
        except FileNotFoundError:
            if self._offset:
                self._begin()
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror or error}") from error
        return self.story is not before or self.story.events != count

    def _take(self, lines: list[bytes]) -> bool:
        """Whether all could be added to what is known; else the file is to be read as a whole."""
        for line in lines:
            self._offset, self._last = self._offset + len(line), line
            for event in parse_events((line.decode(errors="replace"),)):
                if self._so_far.takes_back(event):
                    return False
                self._add(event)
        return True

    def _again(self) -> None:
        self._begin()
        size = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                size, self._last = size + len(line), line
        self._offset = size
        self.story = gather(map(self._noted, stream(self._path, size)))

    def _add(self, event: Event) -> None:
        take(self.story, self._noted(event))

    def _noted(self, event: Event) -> Event:
        self._so_far.add(event)
        line = None if event.kind == "step" else said(event)
        if line is not None:
            self.told.append(((event.attempt, event.seq), f"{event.time[11:19]}  {line}"))
        return event


def said(event: Event) -> str | None:
    """An event as one line, the last words too."""
    with suppress(KeyError):  # of a version that says less
        line = describe(event, 0)
        if line is not None:
            return line
    fields = event.fields
    match event.kind:
        case "published":
            return f"published to {fields.get('uri')}"
        case "preempted":
            return f"asked to stop: {fields.get('message') or fields.get('signal')}"
        case "end" if fields.get("outcome") == "done":
            return "done and verified"
        case "end":
            return f"failed with exit code {fields.get('exit_code')}: {fields.get('message')}"
        case _:
            return None


class Watched:
    """What is watched. :meth:`look` may take long (a bucket, a cluster): it belongs in a thread.

    ``standing``: how the run stands in its cluster, for a run file that names one.
    """

    def __init__(self, run: str, standing: Callable[[RunConfig], Standing]) -> None:
        """Errors: :class:`ConfigError` for what is no folder, run file or place in a bucket."""
        self._run, self._standing = run, standing
        self._stack = ExitStack()
        self._uri: str | None = None
        self._copy: Path | None = None
        self._config: RunConfig | None = None
        self._spent: float | None = None
        self._logs: tuple[str, ...] = ()
        self._seen = False
        try:
            place = locate(run)
        except ConfigError:
            self._config = _in_a_cluster(run)
            if self._config is None:
                raise
            self._folder = self._temporary()  # it waits in its queue: nothing is in the bucket yet
            self._seen = True
        else:
            self._config, self._uri = place.config, place.uri
            self._folder = place.folder or self._temporary()
        self._run_dir = RunDir(self._folder)
        self._tail = EventTail(self._run_dir.events_file)

    @property
    def far(self) -> bool:
        """In a bucket: to be asked less often."""
        return self._copy is not None

    @property
    def place(self) -> str:
        return self._uri or (str(self._folder) if self._copy is None else self._run)

    def look(self) -> View:
        """What is there now; what cannot be seen at the moment is a note, and not the end.

        Errors: at the first look those of :func:`packtrain.run.where.bring`, for a place in a bucket;
        :class:`StorageError` and :class:`ConfigError` for a folder that cannot be read.
        """
        note = self._bring() if self.far else None
        self._tail.read()
        cluster = None
        if self._config is not None and self._config.cluster.name is not None:
            try:
                cluster = self._standing(self._config)
            except PacktrainError as error:
                note = note or str(error)
        return make_view(self.facts(), self.place, self._tail.told, self._logs, cluster, note)

    def facts(self) -> RunFacts:
        """For the page, of the last look."""
        return read_facts(self._run_dir, spent_usd=self._spent, story=self._tail.story)

    def close(self) -> None:
        self._stack.close()

    def _temporary(self) -> Path:
        # A look that is still going on when the view is left may write into it once more.
        folder = tempfile.TemporaryDirectory(prefix="packtrain-watch-", ignore_cleanup_errors=True)
        self._copy = Path(self._stack.enter_context(folder))
        return self._copy

    def _bring(self) -> str | None:
        try:
            uri = self._uri or locate(self._run).uri
            if uri is None:  # it has begun on this machine
                return None
            self._uri = newest(uri)
            self._spent = bring(self._run_dir, self._uri)
            with closing(open_storage(self._uri)) as storage:
                self._logs = _last_lines(log.text for log in read_logs(storage))
            self._seen = True
        except PacktrainError as error:
            if not self._seen:
                raise
            return str(error)
        return None


def _in_a_cluster(run: str) -> RunConfig | None:
    from packtrain.runfile import load

    path = Path(run).expanduser()
    config = load(path, []).config if path.is_file() else None
    return config if config is not None and config.cluster.name is not None else None


def _last_lines(texts: Iterable[str]) -> tuple[str, ...]:
    """Of the newest attempt's first rank: the first log of the last folder that said anything."""
    newest_text = ""
    for text in texts:
        newest_text = text if text.strip() else newest_text
    return tuple(newest_text.splitlines()[-EVENTS:])
