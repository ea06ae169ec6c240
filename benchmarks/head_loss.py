"""The loss over a large vocabulary: ours, and `torch.nn.functional.linear_cross_entropy`, chunked or not.

    python benchmarks/head_loss.py [--positions 268] [--hidden 576] [--vocabulary 49152] [--repeats 5]

Forward and backward of a frozen head (the gradient of the hidden states alone), as LoRA has it, and with
`--train-head` of the head too. In each round every way runs once, in a process of its own, in another order:
CPU seconds, the peak of memory above what the inputs take, and the largest difference of the gradient from
the reference in fp64, as a part of the gradient's largest number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from comparison import Spread, markdown
from measured import peak_rss

#: Of one measurement: the median of so many passes after one that warms up.
PASSES = 5


def ways() -> dict[str, Callable[..., Any]]:
    import torch.nn.functional as F
    from torch.nn import LinearCrossEntropyOptions

    from packtrain.model.loss import chunked_cross_entropy

    def ours(hidden: Any, weight: Any, targets: Any) -> Any:
        return chunked_cross_entropy(hidden, weight, None, targets)

    def torchs(options: LinearCrossEntropyOptions | None) -> Callable[..., Any]:
        def loss(hidden: Any, weight: Any, targets: Any) -> Any:
            return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)

        return loss

    made = {"ours": ours, "torch": torchs(None), "torch, chunked": torchs(LinearCrossEntropyOptions())}
    for rows in (128, 512):
        options = LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
        made[f"torch, chunks of {rows}"] = torchs(options)
    return made


def measure(way: str, positions: int, arguments: argparse.Namespace) -> None:
    """In a process of its own; prints JSON."""
    import torch

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, arguments.hidden, generator=generator)
    weight = torch.randn(arguments.vocabulary, arguments.hidden, generator=generator).mul_(0.05)
    targets = torch.randint(arguments.vocabulary, (positions,), generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_(arguments.train_head)
    loss = ways()[way]
    took = []
    before = peak_rss()
    for _ in range(PASSES + 1):
        hidden.grad = weight.grad = None
        began = time.process_time()
        loss(hidden, weight, targets).backward()
        took.append(time.process_time() - began)
    peak = peak_rss() - before
    ours = hidden.grad
    assert ours is not None
    exact = hidden.detach().double().requires_grad_()
    logits = exact @ weight.detach().double().t()
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    assert exact.grad is not None
    error = float((ours - exact.grad).abs().max() / exact.grad.abs().max())
    print(json.dumps({"cpu": Spread.of(took[1:]).median, "peak": peak, "error": error}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--positions", default="268", help="supervised tokens: a table for each number")
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--train-head", action="store_true")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if arguments.way:
        measure(arguments.way, int(arguments.positions), arguments)
        return
    order = list(ways())
    for positions in map(int, arguments.positions.split(",")):
        found: dict[str, list[dict[str, float]]] = {way: [] for way in order}
        for number in range(arguments.repeats):
            print(f"{positions} positions, round {number + 1} of {arguments.repeats}", file=sys.stderr)
            turn = number % len(order)
            for way in order[turn:] + order[:turn]:
                command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
                command += ["--positions", str(positions)]
                ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                found[way].append(json.loads(ended.stdout))
        print(table(positions, found))


def table(positions: int, found: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for way, rounds in found.items():
        ratio = Spread.of(mine["cpu"] / each["cpu"] for mine, each in zip(rounds, found["ours"], strict=True))
        rows.append(
            (
                way,
                Spread.of(each["cpu"] for each in rounds).text(3),
                ratio.text(2),
                Spread.of(each["peak"] / 1e6 for each in rounds).text(0),
                f"{max(each['error'] for each in rounds):.1e}",
            )
        )
    return markdown((f"{positions} positions", "CPU s", "× ours", "peak MB", "error"), rows)


if __name__ == "__main__":
    main()
