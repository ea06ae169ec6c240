"""What the supervisor needs to know from the operating system about the processes under it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started or adopted and has not waited for, dead ones too."""
    found: list[int] = []
    if Path("/proc/self/task").exists():
        with contextlib.suppress(OSError):  # it is gone
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found
    shown = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False)
    pairs = (tuple(map(int, line.split())) for line in shown.stdout.splitlines())
    return [child for child, parent in pairs if parent == pid]


def descendants(pid: int) -> list[int]:
    """All processes under ``pid``, those that lead sessions of their own too."""
    below: list[int] = []
    pending = [pid]
    while pending:
        found = children(pending.pop())
        below += found
        pending += found
    return below


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may have gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Orphans below become children of this process, as they are of PID 1 in a container anyway.

    Without it, and on other systems than Linux, workers whose launcher was killed could not be found.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def die_with(parent: int) -> None:
    """Get a SIGTERM when ``parent``, which started this process, dies. Only on Linux."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(128 + signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def oom_kill_files() -> list[Path]:
    """Where the kernel counts what it killed for want of memory: of our own control group, else of all.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.events), and v1's memory.oom_control
    """
    root, files = Path("/sys/fs/cgroup"), []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files += [root / path[1:] / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            files += [root / "memory" / path[1:] / "memory.oom_control", root / "memory/memory.oom_control"]
    return [*files, Path("/proc/vmstat")]


def oom_kills(files: Iterable[Path]) -> int:
    """How many processes the kernel has killed for want of memory, by the first file that says so."""
    for file in files:
        try:
            count = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        if count:
            return int(count[1])
    return 0
