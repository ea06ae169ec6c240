"""The least time that a step can take here: the work it cannot do without, at the measured rate of GEMM.

    python benchmarks/floor.py --base FOLDER --rows dolly.jsonl.gz --count 8 --max-length 512

The rate is that of oneDNN in fp32 on weights that were packed before, at the very shapes of the base's
layers with the rows' tokens, forward and backward, the best of some tries.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from compare import write_rows
from setup_ours import make_trainer
from transformers import AutoConfig
from work import Shape, step_work

TRIES = 5


def best_seconds(weight: torch.Tensor, rows: int, *, packed: bool) -> float:
    """CPU seconds of ``[rows, in] @ weight.T``, the best of some."""
    x = torch.randn(rows, weight.shape[1])
    if packed:
        ready = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

        def product() -> None:
            torch.ops.mkldnn._linear_pointwise(x, ready, None, "none", [], "")
    else:

        def product() -> None:
            torch.nn.functional.linear(x, weight)

    product()
    found = []
    for _ in range(TRIES):
        began = time.process_time()
        product()
        found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, .jsonl or .jsonl.gz")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        rows_file = Path(name) / "rows.jsonl"
        write_rows(options.rows, options.skip, options.count, rows_file)
        rows = make_trainer(options.base.resolve(), rows_file, options.max_length).rows
    config = AutoConfig.from_pretrained(options.base)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = Shape(
        config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
        config.num_key_value_heads, head_size, config.vocab_size,
    )  # fmt: skip
    lengths, targets = rows.lengths.tolist(), int(rows.targets.sum())
    tokens = sum(lengths)
    work = step_work(shape, 16, lengths, targets)
    rates = {}
    with torch.no_grad():
        for packed in (True, False):
            seconds = done = 0.0
            for inside, outside in shape.linear.values():
                weight = torch.randn(outside, inside)
                for each in (weight, weight.t().contiguous()):  # forward, and the gradient of the input
                    seconds += best_seconds(each, tokens, packed=packed)
                    done += 2 * tokens * inside * outside
            rates["packed" if packed else "plain"] = done / seconds
    least = work.total / rates["packed"]
    print(f"load average {os.getloadavg()[0]:.1f}, {options.threads} thread(s)")
    print(f"{len(lengths)} rows, {tokens:,} tokens, {targets:,} supervised")
    for part in ("base", "adapter", "attention", "head", "total"):
        print(f"{part:<10} {getattr(work, part) / 1e9:8.1f} GFLOP")
    for kind, rate in rates.items():
        print(f"GEMM, weights {kind}: {rate / 1e9:.0f} GFLOP per CPU second")
    print(f"the floor: {least:.1f} CPU s a step, {tokens / least:.0f} useful tokens per CPU second")
    if options.json:
        found = {"work": vars(work), "rates": rates, "cpu_seconds": least, "tokens": tokens}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
