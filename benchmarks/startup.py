"""From the start of a process to the end of its first optimizer step, ours and TRL's, seen from outside.

Both have the same rows, and make a step of one packed sequence, however few tokens ``batch_tokens`` asks
for; which one is up to their shuffling, so that the table has its tokens. Both are looked at in the same
way, through ``/proc``. What they keep from an earlier start is not there at the first one.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison import Spread, markdown

HERE = Path(__file__).resolve().parent
_TICKS = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.02

RUN_FILE = """\
name: start-up
model: {{source: {base}}}
data: {{train: {rows}, validation: 0.0, max_length: {max_length}}}
adapter: {{rank: 16, alpha: 32}}
train: {{max_steps: 1, batch_tokens: 16, threads: {threads}}}
"""


def first_steps(
    peers: Path, base: Path, rows: Path, max_length: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Seconds (``wall``, ``cpu``) to the end of the first step of packtrain, of packtrain started again
    on the same data, and of TRL packed; and the ``tokens`` of that step."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        run_file = folder / "run.yaml"
        threads = environment["OMP_NUM_THREADS"]
        run_file.write_text(
            RUN_FILE.format(base=base, rows=rows, max_length=max_length, threads=threads), encoding="utf-8"
        )
        cached = {**environment, "PACKTRAIN_CACHE": str(folder / "cache")}
        for turn, start in enumerate(("packtrain", "packtrain-again")):
            run_dir = folder / f"run-{turn}"
            command = [sys.executable, "-m", "packtrain.cli.main", "train", str(run_file)]
            command += ["--run-dir", str(run_dir)]
            found[start] = _until(command, cached, folder, functools.partial(step_tokens, run_dir))
        mark = folder / "first-step"
        command = [str(peers), str(HERE / "peers.py"), "trl-packed", "--base", str(base), "--rows", str(rows)]
        command += ["--steps", "0", "--max-length", str(max_length), "--threads", threads]
        environment = {**environment, "HF_HOME": str(folder / "huggingface")}
        found["trl-packed"] = _until(
            [*command, "--first-step", str(mark)], environment, folder, functools.partial(_marked, mark)
        )
    return found


def step_tokens(run_dir: Path) -> int | None:
    """Tokens of a run's first step; None before its end."""
    try:
        lines = (run_dir / "events.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    events = map(json.loads, lines)
    return next((int(event["tokens"]) for event in events if event["kind"] == "step"), None)


def _marked(mark: Path) -> int | None:
    return int(mark.read_text(encoding="utf-8")) if mark.exists() else None


def _until(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, done: Callable[[], int | None]
) -> dict[str, float]:
    """``done``: None, or the tokens of the first step."""
    began = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=dict(environment), cwd=folder, stdout=log, stderr=log)
        try:
            while (tokens := done()) is None:
                if process.poll() is not None and done() is None:
                    raise SystemExit(
                        f"{command[1:4]} ended without a step:\n{(folder / 'log').read_text()[-2000:]}"
                    )
                time.sleep(POLL_SECONDS)
            wall = time.perf_counter() - began
            cpu = _cpu_seconds(process.pid)
        finally:
            process.kill()
            process.wait()
    return {"wall": round(wall, 2), "cpu": round(cpu, 2), "tokens": tokens}


def _cpu_seconds(pid: int) -> float:
    """Of a process and the children that it has waited for; 0.0 where it has gone."""
    # The name in parentheses may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS


def start_table(starts: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Seconds to the end of the first step, and what part of TRL's that is."""
    body = []
    for name in starts[0]:
        shares = {
            kind: Spread.of(each[name][kind] / each["trl-packed"][kind] for each in starts)
            for kind in ("wall", "cpu")
        }
        seconds = {kind: Spread.of(each[name][kind] for each in starts) for kind in ("wall", "cpu")}
        body.append(
            (
                name,
                seconds["wall"].text(1),
                seconds["cpu"].text(1),
                shares["wall"].text(2),
                shares["cpu"].text(2),
                Spread.of(each[name]["tokens"] for each in starts).text(0),
            )
        )
    head = ("to the end of the first step", "wall s", "CPU s", "of TRL's wall", "of TRL's CPU", "tokens")
    return markdown(head, body)
