"""Pods as groups of processes, started and ended as a kubelet does it."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from packtrain.kube.rehearsal.controllers import PodEnd
from packtrain.kube.rehearsal.kubelet import Process
from packtrain.run import processes
from packtrain.rundir import Event, RunDir, parse_events


@dataclass
class RunningPod:
    """One pod whose container has been started; ``process`` is its first process."""

    name: str
    index: int
    folder: Path
    made: Process
    process: subprocess.Popen[bytes]
    disrupted: bool = False
    _kill_at: float | None = field(default=None, init=False)

    @classmethod
    def start(cls, name: str, index: int, folder: Path, made: Process) -> RunningPod:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                made.argv,
                cwd=folder,
                env=dict(made.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the rehearsal
            )
        return cls(name, index, folder, made, process)

    @property
    def run_dir(self) -> RunDir | None:
        """Where its trainer keeps the run; None for a pod that trains nothing."""
        argv = self.made.argv
        return RunDir(Path(argv[argv.index("--run-dir") + 1])) if "--run-dir" in argv else None

    def lines(self) -> list[str]:
        """All that it has printed."""
        return (self.folder / "log").read_text(errors="replace").splitlines()

    def events(self) -> list[Event]:
        if self.run_dir is None:
            return []
        try:
            return list(parse_events(self.run_dir.events_file.read_text(errors="replace").splitlines()))
        except FileNotFoundError:
            return []

    def terminate(self, seconds: float) -> None:
        """SIGTERM to the first process, and SIGKILL to all after ``seconds`` (in :meth:`poll`)."""
        if self._kill_at is None and self.process.poll() is None:
            self._kill_at = time.monotonic() + seconds
            self.process.send_signal(signal.SIGTERM)

    def poll(self) -> PodEnd | None:
        """How it has ended; None while it runs."""
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self.kill()
        status = self.process.poll()
        if status is None:
            return None
        # A container that a signal ended has 128 and its number.
        return PodEnd(self.name, self.index, status if status >= 0 else 128 - status, self.disrupted)

    def kill(self) -> None:
        """All of it, at once."""
        if self.process.poll() is None:
            everything = [self.process.pid, *processes.descendants(self.process.pid)]
            processes.send(everything, signal.SIGKILL)
