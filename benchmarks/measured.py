"""What one process used while it trained: CPU seconds, wall seconds and memory. Imports nothing but Python.

Every contestant, in whatever venv, measures itself with this, so that the same thing is measured.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Measured:
    """Sums over the steps after the first, which warms up; all of it is printed as one line of JSON."""

    name: str
    steps: int = 0
    useful_tokens: int = 0
    """Tokens that are not padding, over all measured steps."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_rss_bytes: int = 0
    start_cpu_seconds: float = 0.0
    """From the start of the process to its first step."""
    losses: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    _begun: tuple[float, float] = (0.0, 0.0)
    _seen: int = 0

    def begin_step(self) -> None:
        if self._seen == 0:
            self.start_cpu_seconds = time.process_time()
        self._begun = time.process_time(), time.perf_counter()

    def end_step(self, tokens: int) -> None:
        cpu, wall = time.process_time() - self._begun[0], time.perf_counter() - self._begun[1]
        self._seen += 1
        if self._seen == 1:
            return
        self.steps += 1
        self.useful_tokens += tokens
        self.cpu_seconds += cpu
        self.wall_seconds += wall

    def print(self) -> None:
        self.peak_rss_bytes = peak_rss()
        known = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        print(json.dumps(known))


def peak_rss() -> int:
    """Bytes, of this process alone (VmHWM); a parent's peak does not count, as it does in getrusage."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no VmHWM for process {os.getpid()}")
