"""Packtrain against what people would use instead, on the same rows: a table, and JSON.

    python benchmarks/compare.py --base FOLDER --rows dolly.jsonl

Run it in packtrain's venv; the peers get one of their own (``--peers-venv``, made when it is not there).
In each round every contestant runs once, in a process of its own, in another order; see README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comparison import as_json, table
from contestants import CONTESTANTS, DEFAULT, RIVALS, TABLE, Contestant
from startup import first_steps, start_table

HERE = Path(__file__).resolve().parent
PEERS_VENV = HERE / ".peers"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, type=Path, help="a folder with a Llama and its tokenizer")
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, .jsonl or .jsonl.gz")
    parser.add_argument("--skip", type=int, default=0, help="rows to pass over at the start of the file")
    parser.add_argument("--count", type=int, default=8, help="rows of the step that is measured")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=threads, default=[1], help="1, or 1,2: a table for each number")
    parser.add_argument("--batch", type=int, help="sequences in a peer's forward pass; else each one's usual")
    parser.add_argument("--steps", type=int, default=2, help="measured after one that warms up")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument(
        "--contestants",
        default=",".join(DEFAULT),
        help=f"some of {','.join(CONTESTANTS)}; all, table (those of the README), or an empty one",
    )
    parser.add_argument(
        "--shape",
        metavar="HIDDEN,LAYERS,HEADS,KV,VOCAB",
        help="a random Llama with the base's tokenizer instead",
    )
    parser.add_argument("--start-up", type=int, default=0, metavar="N", help="also N times to the first step")
    parser.add_argument("--start-rows", type=int, default=2, help="rows of the data at such a start; 0: all")
    parser.add_argument("--peers-venv", type=Path, default=PEERS_VENV)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    chosen = [name for name in options.contestants.split(",") if name]
    names = {"all": list(CONTESTANTS), "table": list(TABLE)}.get(options.contestants, chosen)
    if unknown := [name for name in names if name not in CONTESTANTS]:
        parser.error(f"no contestant {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    options.contestants = [CONTESTANTS[name] for name in names]
    return options


def threads(text: str) -> list[int]:
    """``1,2`` as numbers."""
    numbers = [int(each) for each in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def peers_python(venv: Path) -> Path:
    """The interpreter of the peers' venv, which is made where it is not there."""
    python = venv / "bin" / "python"
    if not python.exists():
        say(f"making {venv} (downloads PyTorch; some minutes)")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        wanted = ["-r", str(HERE / "requirements.txt")]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def write_rows(source: Path, skip: int, count: int | None, target: Path) -> None:
    """Some rows of a file, or all after the first; exits where there are not so many."""
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt", encoding="utf-8") as file:
        lines = list(itertools.islice(file, skip, None if count is None else skip + count))
    if count is not None and len(lines) < count:
        raise SystemExit(f"{source}: has only {len(lines)} rows after the first {skip}")
    target.write_text("".join(lines), encoding="utf-8")


def random_base(base: Path, shape: str, target: Path) -> Path:
    subprocess.run([sys.executable, str(HERE / "random_base.py"), str(base), shape, str(target)], check=True)
    return target


def environment(threads: int) -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def run(
    contestant: Contestant, python: Path, options: argparse.Namespace, base: Path, rows: Path, threads: int
) -> Any:
    """What one process measured; None where it failed."""
    command = [str(python), str(HERE / contestant.script), *contestant.arguments]
    command += ["--base", str(base), "--rows", str(rows), "--steps", str(options.steps)]
    command += ["--threads", str(threads), "--max-length", str(options.max_length)]
    if contestant.batch is not None:
        command += ["--batch", str(options.batch or contestant.batch)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ended = subprocess.run(
            command, env=environment(threads), cwd=folder, capture_output=True, text=True, check=False
        )
    if ended.returncode != 0:
        say(f"  {contestant.name} failed: {(ended.stderr.strip().splitlines() or [''])[-1][:300]}")
        return None
    return json.loads(ended.stdout.splitlines()[-1])


@contextlib.contextmanager
def inputs(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(options.rows, options.skip, options.count, rows)
        base: Path = options.base.resolve()
        if options.shape:
            base = random_base(base, options.shape, Path(folder) / "base")
        yield base, rows


def one_round(
    number: int, count: int, pythons: dict[str, Path], options: argparse.Namespace, base: Path, rows: Path
) -> dict[str, Any]:
    """What each contestant measured, as they were named, whatever the order that they ran in."""
    made: dict[str, Any] = {}
    turn = number % len(options.contestants)
    for contestant in options.contestants[turn:] + options.contestants[:turn]:
        say(f"round {number + 1} of {options.repeats}, {count} thread(s): {contestant.name} (load {load()})")
        measured = run(contestant, pythons[contestant.venv], options, base, rows, count)
        if measured is not None:
            made[contestant.name] = measured
    return {each.name: made[each.name] for each in options.contestants if each.name in made}


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures hold for."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "command": sys.argv[1:],
        "threads": options.threads,
    }


def load() -> float:
    return round(os.getloadavg()[0], 2)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    options = parse()
    facts = machine(options)
    loads = [load()]
    rounds: dict[int, list[dict[str, Any]]] = {}
    starts: list[dict[str, Any]] = []
    peers_wanted = options.start_up or any(each.venv == "peers" for each in options.contestants)
    pythons = {"ours": Path(sys.executable)}
    if peers_wanted:
        pythons["peers"] = peers_python(options.peers_venv)
    with inputs(options) as (base, rows), tempfile.TemporaryDirectory(prefix="bench-") as name:
        few = Path(name) / "rows.jsonl"
        if options.start_up:
            write_rows(options.rows, 0, options.start_rows or None, few)
        for count in options.threads if options.contestants else []:
            rounds[count] = [
                one_round(number, count, pythons, options, base, rows) for number in range(options.repeats)
            ]
            loads.append(load())
        for number in range(options.start_up):
            say(f"start {number + 1} of {options.start_up} (load {load()})")
            starts.append(
                first_steps(pythons["peers"], base, few, options.max_length, environment(options.threads[0]))
            )
            loads.append(load())
    print(f"{facts['processor']}, {facts['cores']} cores; load average {min(loads)}–{max(loads)} "
          "(a contestant alone is as much as its threads)")  # fmt: skip
    result: dict[str, Any] = {"machine": facts, "load_averages": loads, "threads": {}}
    for count, made in rounds.items():
        tokens = next((run["useful_tokens"] / run["steps"] for each in made for run in each.values()), 0)
        print(f"\n{count} thread(s): {options.count} rows, {tokens:,.0f} tokens a step; "
              f"median of {options.repeats} (least–most)\n")  # fmt: skip
        print(table(made, RIVALS))
        result["threads"][count] = as_json(made, RIVALS)
    if starts:
        print(f"\n{start_table(starts)}")
        result["starts"] = starts
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
