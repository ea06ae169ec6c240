"""A run in several processes, from one that is none of them: the verb in its own, followed by its events.

``python -m packtrain.api.processes PARENT ARGUMENTS…`` becomes the verb, and gets a SIGTERM when the process
PARENT, a notebook's, dies.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packtrain.errors import BY_EXIT_CODE, BugError, PacktrainError
from packtrain.run.outcome import signal_name
from packtrain.run.processes import die_with
from packtrain.rundir import RunDir, last_attempt, parse_events
from packtrain.runfile import RunFile, dump
from packtrain.train.preemption import StopRequest
from packtrain.train.progress import Progress

#: Seconds between two looks at the events.
LOOK = 0.2
#: What a second Ctrl-C ends with, as shells have it.
INTERRUPTED = 130
_LINE = re.compile(r"^(error|hint): (.*)$")


def train_beside(
    run_file: RunFile, folder: Path, *, processes: int, new: bool, progress: Progress
) -> dict[str, Any]:
    """What ``packtrain train --json`` says of a run in so many processes of this machine.

    Errors: those of the run, :class:`PreemptedError` for a stop, KeyboardInterrupt for a second Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="packtrain-train-") as name, StopRequest(guest=True) as stop:
        stop.ignore()  # noted only: the run says how it ended
        out, err, given = (Path(name) / each for each in ("out", "err", "run.yaml"))
        given.write_text(dump(run_file.config), encoding="utf-8")
        arguments = ["train", str(given), "--run-dir", str(folder.absolute()), "--json"]
        arguments += ["--processes", str(processes), *(["--new"] if new else [])]
        events = _Events(folder, new=new)
        progress.stage(f"starting {processes} processes")
        with _started(arguments, out, err) as process:
            asked = False
            while process.poll() is None:
                if stop.requested and not asked:
                    asked = True
                    process.send_signal(signal.SIGTERM)
                events.tell(progress)
                time.sleep(LOOK)
            events.tell(progress)
            return _ended(process.returncode, out, err)


@contextmanager
def _started(arguments: Sequence[str], out: Path, err: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The verb; a Ctrl-C on a terminal is for this process alone. Whatever happens here ends it, too."""
    command = [sys.executable, "-m", "packtrain.api.processes", str(os.getpid()), *arguments]
    with out.open("wb") as printed, err.open("wb") as told:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=told, start_new_session=True
        )
    try:
        yield process
    finally:
        for _ in range(2):  # the second one kills the ranks
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                time.sleep(LOOK)
        process.wait()


class _Events:
    """What an attempt that begins now writes, told to a progress."""

    def __init__(self, folder: Path, *, new: bool) -> None:
        self._path = RunDir(folder).events_file
        self._before = 0 if new else last_attempt(self._path)
        self._old = self._file() if new else None
        self._read = 0

    def tell(self, progress: Progress) -> None:
        if self._file() in (None, self._old):
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = [line for line in file.readlines() if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        for event in parse_events(line.decode(errors="replace") for line in lines):
            if event.attempt <= self._before:
                continue
            if event.kind == "start" and "steps" in event.fields:
                progress.begin(event.fields.get("resumed_from") or 0, event.fields["steps"])
            progress.event(event)
            if event.kind == "step" and event.step == progress.steps:
                progress.stage("checking the adapter")

    def _file(self) -> int | None:
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            return None


def _ended(code: int, out: Path, err: Path) -> dict[str, Any]:
    """The JSON that was printed. Errors: what was told instead, as one of ours."""
    if code == 0:
        printed = out.read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(printed[printed.index("{\n") :])
        return found
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    lines = err.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [match.groups() for match in map(_LINE.match, lines) if match]
    message = "\n".join(text for kind, text in told if kind == "error")
    hint = next((text for kind, text in told if kind == "hint"), None)
    if not message:
        how = f"died of {signal_name(-code)}" if code < 0 else f"ended with {code}"
        message, hint = f"the run's process {how}", "\n".join(lines[-5:]) or None
    kind: type[PacktrainError] = BY_EXIT_CODE.get(code, BugError)
    raise kind(message, hint=hint)


def main() -> None:
    die_with(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-m", "packtrain.cli.main", *sys.argv[2:]])  # noqa: S606


if __name__ == "__main__":
    main()
