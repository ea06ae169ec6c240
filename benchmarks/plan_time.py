"""What `packtrain plan` says a run on this machine's CPU takes, and what the run then takes.

    python benchmarks/plan_time.py --base FOLDER --rows dolly.jsonl.gz [--counts 24,96] [--threads 1,2]

For each number of rows and threads a plan, and right after it the run that was planned. With other load the
plan's seconds of measuring and the run's own may fall into different weather: the load average is shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compare import environment, load, say, write_rows
from comparison import markdown

RUN_FILE = """\
name: plan-time
model: {{source: {base}}}
data: {{train: {rows}, validation: 0.0, max_length: {max_length}}}
adapter: {{rank: 16, alpha: 32}}
train: {{epochs: 1, batch_tokens: {batch_tokens}, threads: {threads}}}
"""
#: The parts of a prediction that are compared: seconds of the whole attempt, and of its training steps.
PARTS = ("seconds", "training_seconds")


def planned_and_happened(
    base: Path, rows: Path, max_length: int, batch_tokens: int, threads: int, folder: Path
) -> dict[str, Any]:
    """The run's own two events ``plan``, as one mapping: what was said before it, and ``happened``."""
    run_file, run_dir = folder / "run.yaml", folder / "run"
    run_file.write_text(
        RUN_FILE.format(
            base=base, rows=rows, max_length=max_length, batch_tokens=batch_tokens, threads=threads
        ),
        encoding="utf-8",
    )
    surroundings = environment(threads) | {"PACKTRAIN_CACHE": str(folder / "cache")}
    packtrain = [sys.executable, "-m", "packtrain.cli.main"]
    _ended([*packtrain, "plan", str(run_file), "-s", "plan.gpu=cpu"], surroundings)
    _ended([*packtrain, "train", str(run_file), "--run-dir", str(run_dir)], surroundings)
    return told_in((run_dir / "events.jsonl").read_text(encoding="utf-8"))


def told_in(events: str) -> dict[str, Any]:
    """Of a run's events: the fields of all that are of the kind ``plan``, together."""
    told: dict[str, Any] = {}
    for line in events.splitlines():
        event = json.loads(line)
        if event["kind"] == "plan":
            told |= event
    if "happened" not in told or not told.get("seconds"):
        raise SystemExit("the run has not repeated its plan: is it of the same settings?")
    return told


def compared(told: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """For each part: seconds planned, seconds that it took, how far the plan was off (0.1: 10 % too much)."""
    found = {}
    for part in PARTS:
        said, was = float(told[part]["expected"]), float(told["happened"][part])
        found[part] = said, was, said / was - 1
    return found


def _ended(command: list[str], surroundings: Mapping[str, str]) -> None:
    ended = subprocess.run(command, env=dict(surroundings), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{command[3:5]} failed:\n{ended.stderr[-2000:]}")


def whole_numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, .jsonl or .jsonl.gz")
    parser.add_argument("--counts", type=whole_numbers, default=[24, 96], help="rows of each run")
    parser.add_argument("--threads", type=whole_numbers, default=[1, 2])
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    body = []
    for count, threads in itertools.product(options.counts, options.threads):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            rows = folder / "rows.jsonl"
            write_rows(options.rows, 0, count, rows)
            before = load()
            say(f"{count} rows, {threads} thread(s) (load {before})")
            told = planned_and_happened(
                options.base.resolve(), rows, options.max_length, options.batch_tokens, threads, folder
            )
        made = compared(told)
        found.append({"rows": count, "threads": threads, "loads": [before, load()], "told": told})
        cells = [
            cell for said, was, off in made.values() for cell in (f"{said:.1f}", f"{was:.1f}", f"{off:+.0%}")
        ]
        body.append((str(count), str(threads), *cells))
    head = ("rows", "threads", "planned, s", "took, s", "off", "training: planned, s", "took, s", "off")
    loads = [each for run in found for each in run["loads"]]
    print(f"{os.cpu_count()} cores; load average {min(loads)}–{max(loads)}\n")
    print(markdown(head, body))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
