"""The way to tokens: CPU seconds of packtrain and of TRL's preparation, packing, and the memory it takes.

    python benchmarks/data_path.py --base FOLDER --rows dolly.jsonl.gz [--gigabytes 2] [--peers-venv DIR]

Each part runs in a process of its own, with one thread.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparison import markdown
from measured import peak_rss

HERE = Path(__file__).resolve().parent


def ours(base: Path, rows: Path) -> dict[str, Any]:
    """Render, tokenise, mask and pack every row of ``rows``, with the run file's defaults."""
    from packtrain.config import RunConfig
    from packtrain.data.prepare import prepare
    from packtrain.model.weights import load_tokenizer, resolve_base

    config = RunConfig.model_validate(
        {
            "name": "benchmark",
            "model": {"source": str(base)},
            "data": {"train": str(rows), "on_bad_row": "skip"},
        }
    )
    tokenizer = load_tokenizer(resolve_base(config.model, weights=False), config.model)
    before, wall = time.process_time(), time.perf_counter()
    made = prepare(config.data, tokenizer, chat_template=None, seed=42)
    return {
        "cpu": time.process_time() - before,
        "wall": time.perf_counter() - wall,
        "rows": made.report.findings.rows_read,
        "tokens": int(made.train.lengths.sum()),
        "bins": len(made.train_bins),
        "peak_rss_bytes": peak_rss(),
    }


def packing() -> dict[str, Any]:
    """1.5 million lengths as instruction data has them."""
    import numpy as np

    from packtrain.data.packing import pack

    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 0.9, 1_500_000).astype(np.int64), 1, 2048)
    before, wall = time.process_time(), time.perf_counter()
    bins = pack(lengths, 2048)
    cpu = time.process_time() - before
    full = float(lengths.sum()) / (2048 * len(bins))
    return {"cpu": cpu, "wall": time.perf_counter() - wall, "bins": len(bins), "full": full}


def trl(base: Path, rows: Path) -> dict[str, Any]:
    """SFTTrainer's own preparation of the same rows, to its packed data set."""
    import torch
    from datasets import Dataset
    from peers import conversations
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    # What is trained does not matter here.
    tiny = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    torch.set_num_threads(1)
    model, data = LlamaForCausalLM(tiny), Dataset.from_list(conversations(rows))
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(prefix="peer-"), use_cpu=True, bf16=False, report_to=[], max_length=2048,
        packing=True, disable_tqdm=True,
    )  # fmt: skip
    before, wall = time.process_time(), time.perf_counter()
    trainer = SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    return {
        "cpu": time.process_time() - before,
        "wall": time.perf_counter() - wall,
        "rows": len(data),
        "bins": len(trainer.train_dataset),
        "peak_rss_bytes": peak_rss(),
    }


def copies(rows: Path, gigabytes: float, target: Path) -> None:
    """A jsonl of so many gigabytes: the rows again and again, each time a little different."""
    lines = plain(rows).splitlines()
    with target.open("w", encoding="utf-8") as file:
        turn = 0
        while file.tell() < gigabytes * 1e9:
            for line in lines:
                row = json.loads(line)
                row["instruction"] = f"{row['instruction']} ({turn})"
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            turn += 1


def plain(rows: Path) -> str:
    with (gzip.open if rows.suffix == ".gz" else open)(rows, "rt", encoding="utf-8") as file:  # type: ignore[operator]
        return str(file.read())


def part(python: Path, arguments: list[str], cache: Path) -> dict[str, Any]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
        "PACKTRAIN_CACHE": str(cache),
        "HF_HOME": str(cache / "huggingface"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(python), str(HERE / "data_path.py"), *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{arguments[:2]} failed:\n{ended.stderr[-2000:]}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, .jsonl or .jsonl.gz")
    parser.add_argument("--gigabytes", type=float, default=0.0, help="also a jsonl of this size")
    parser.add_argument("--peers-venv", type=Path, help="also TRL's preparation, with compare.py's venv")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--part", choices=["ours", "trl", "packing"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run = {"ours": ours, "trl": trl}.get(options.part)
        print(json.dumps(run(options.base, options.rows) if run else packing()))
        return
    found: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    python = Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        rows.write_text(plain(options.rows), encoding="utf-8")
        base = ["--base", str(options.base.resolve())]
        for turn in ("first start", "second start"):
            found[turn] = part(python, ["--part", "ours", *base, "--rows", str(rows)], folder / "cache")
        if options.peers_venv:
            peers = options.peers_venv / "bin" / "python"
            found["TRL"] = part(peers, ["--part", "trl", *base, "--rows", str(rows)], folder / "peers")
        found["1.5 million lengths packed"] = part(
            python, ["--part", "packing", *base, "--rows", str(rows)], folder / "cache"
        )
        if options.gigabytes:
            large = folder / "large.jsonl"
            copies(rows, options.gigabytes, large)
            for turn in ("first start", "second start"):
                found[f"{options.gigabytes:g} GB, {turn}"] = part(
                    python, ["--part", "ours", *base, "--rows", str(large)], folder / "cache"
                )
    body = [
        (
            name,
            f"{each['rows']:,}" if "rows" in each else "",
            f"{each['bins']:,}",
            f"{each['cpu']:.1f}",
            f"{each['wall']:.1f}",
            f"{each['peak_rss_bytes'] / 1e9:.2f}" if "peak_rss_bytes" in each else "",
        )
        for name, each in found.items()
        if isinstance(each, dict)
    ]
    print(f"load average {found['load_average']:.1f}\n")
    print(markdown(("", "rows", "sequences", "CPU s", "wall s", "peak RSS, GB"), body))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
