"""Streamed data: seconds to the first step, and the most memory that a run takes, as the data grows.

    python benchmarks/streaming.py --rows dolly.jsonl.gz [--gigabytes 0.2,2] [--base FOLDER] [--steps 30]

`packtrain train` runs in a process of its own on a made jsonl file of each size, with `data.streaming` on
and off (`--whole`); without a base, on a tiny random one with its own byte tokenizer. It is looked at from
outside. `--windows N` also makes the first N windows alone, without training: what the data takes by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparison import markdown
from data_path import copies
from measured import peak_rss
from startup import step_tokens

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.02

RUN_FILE = """\
name: streaming
model: {{source: {base}}}
data: {{train: {rows}, streaming: {streaming}, on_bad_row: skip, max_length: {max_length}}}
adapter: {{rank: 8}}
train: {{max_steps: {steps}, batch_tokens: {batch}, micro_batch: 1, threads: 1}}
evaluate: {{every: {steps}}}
"""


def tiny_base(folder: Path) -> Path:
    """A random model of which a step takes no time worth speaking of."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import make_tiny_base

    return make_tiny_base(folder)


def windows(run_file: Path, count: int) -> None:
    """Make windows one after another, as a thread does beside training; prints what it took."""
    from packtrain.data.stream_mark import Mark
    from packtrain.data.streaming import open_streamed
    from packtrain.model.weights import load_tokenizer, resolve_base
    from packtrain.runfile import load

    config = load(run_file).config
    tokenizer = load_tokenizer(resolve_base(config.model, weights=False), config.model)
    before, wall = time.process_time(), time.perf_counter()
    streamed = open_streamed(config.data, tokenizer, chat_template=None, seed=config.train.seed)
    maker = streamed.maker(config.train.batch_tokens, Mark().start, Mark().found)
    tokens, first = 0, 0.0
    for number in range(count):
        tokens += len(maker.make(number).rows.tokens)
        first = first or time.perf_counter() - wall
    took = {"first": first, "wall": time.perf_counter() - wall, "cpu": time.process_time() - before}
    print(json.dumps(took | {"tokens": tokens, "peak_rss_bytes": peak_rss()}))


def watched(run_file: Path, run_dir: Path, cache: Path) -> dict[str, Any]:
    """Seconds to the first step and to the end, and the peak of the process's memory."""
    command = [sys.executable, "-m", "packtrain.cli.main", "train", str(run_file), "--run-dir", str(run_dir)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PACKTRAIN_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    with (run_dir.parent / "log").open("w+b") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
        )
        first, peak = None, 0
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            if first is None and step_tokens(run_dir) is not None:
                first = time.perf_counter() - began
            time.sleep(POLL_SECONDS)
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"packtrain ended with {process.returncode}:\n{log.read().decode()[-2000:]}")
    return {"first_step": first, "seconds": time.perf_counter() - began, "peak_rss_bytes": peak}


def _alone(run_file: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run-file", str(run_file), "--windows", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr[-2000:])
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, help="dolly rows, .jsonl or .jsonl.gz")
    parser.add_argument("--gigabytes", default="0.2", help="sizes of the made file, with commas between")
    parser.add_argument("--base", type=Path, help="a real base in place of the tiny one")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--whole", action="store_true", help="also without streaming: all is tokenised first")
    parser.add_argument("--windows", type=int, default=0, metavar="N", help="also N windows alone")
    parser.add_argument("--run-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.run_file:
        windows(options.run_file, options.windows)
        return
    if options.rows is None:
        parser.error("--rows is needed")
    found: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    alone: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        base = options.base.resolve() if options.base else tiny_base(folder / "base")
        for size in map(float, options.gigabytes.split(",")):
            rows = folder / "rows.jsonl"
            copies(options.rows, size, rows)
            for streaming in (True, False) if options.whole else (True,):
                place = folder / f"run-{size:g}-{streaming}"
                place.mkdir()
                run_file = place / "run.yaml"
                run_file.write_text(
                    RUN_FILE.format(
                        base=base,
                        rows=rows,
                        streaming=str(streaming).lower(),
                        max_length=options.max_length,
                        steps=options.steps,
                        batch=options.batch_tokens,
                    )
                )
                kind = "streamed" if streaming else "whole"
                found[f"{size:g} GB, {kind}"] = watched(run_file, place / "run", place / "cache")
                if streaming and options.windows:
                    alone[f"{size:g} GB"] = _alone(run_file, options.windows)
            rows.unlink()
    body = [
        (name, f"{each['first_step']:.1f}", f"{each['seconds']:.1f}", f"{each['peak_rss_bytes'] / 1e9:.2f}")
        for name, each in found.items()
        if isinstance(each, dict)
    ]
    print(f"load average {found['load_average']:.1f}; {options.steps} steps of {options.batch_tokens} tokens")
    print()
    print(markdown(("", "first step, s", "all, s", "peak RSS, GB"), body))
    if alone:
        body = [
            (
                name,
                f"{each['tokens']:,}",
                *(f"{each[key]:.1f}" for key in ("first", "wall", "cpu")),
                f"{each['peak_rss_bytes'] / 1e9:.2f}",
            )
            for name, each in alone.items()
        ]
        print(f"\n{options.windows} windows alone\n")
        print(markdown(("", "tokens", "the first, s", "all, s", "CPU s", "peak RSS, GB"), body))
    if options.json:
        options.json.write_text(json.dumps(found | {"windows": alone}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
