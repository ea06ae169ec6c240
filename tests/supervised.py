"""Starts supervisors with stand-in ranks, as processes of their own, and looks at what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STANDIN = ROOT / "tests" / "standins" / "supervise.py"


@dataclass
class Ended:
    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Supervised:
    """One supervisor. ``folder`` is where its ranks leave their marks; ``temporary`` is its TMPDIR."""

    folder: Path
    temporary: Path
    process: subprocess.Popen[str]
    begun: float

    def wait_ready(self, ranks: int) -> None:
        self.wait_for(lambda: all((self.folder / f"ready-{rank}").exists() for rank in range(ranks)))

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, f"waited too long: {self._give_up()}"
            time.sleep(0.02)

    def _give_up(self) -> tuple[str, str]:
        """A test that fails leaves no processes: the launcher and the ranks go with their supervisor."""
        self.process.kill()
        return self.process.communicate()

    def pid_of(self, rank: int) -> int:
        return int((self.folder / f"ready-{rank}").read_text())

    def end(self, timeout: float = 90) -> Ended:
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end in {timeout} s: {self._give_up()}") from None
        return Ended(self.process.returncode, out, err, time.monotonic() - self.begun)

    def cause(self) -> str:
        return (self.folder / "end").read_text()


def environment(temporary: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PACKTRAIN_")}
    added = {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(temporary), "PACKTRAIN_LINGER": "0"}
    return kept | added | more


def start(
    folder: Path,
    *behaviours: str,
    engine: str = "direct",
    grace: float = 15.0,
    before: Sequence[str] = (),
    **more: str,
) -> Supervised:
    """``before``: a command that runs the supervisor, such as unshare. ``more``: its environment."""
    temporary = Path(tempfile.mkdtemp(dir=folder))
    command = [*before, sys.executable, str(STANDIN), str(folder), engine, str(grace), *behaviours]
    process = subprocess.Popen(
        command,
        env=environment(temporary, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Supervised(folder, temporary, process, time.monotonic())


def run(folder: Path, *behaviours: str, engine: str = "direct", grace: float = 15.0, **more: str) -> Ended:
    return start(folder, *behaviours, engine=engine, grace=grace, **more).end()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}
