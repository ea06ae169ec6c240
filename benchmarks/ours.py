"""packtrain on the same rows: the step that ``packtrain train`` makes, with the run file's defaults.

Run by ``compare.py`` in packtrain's own venv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from measured import Measured
from setup_ours import make_trainer

from packtrain import __version__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, one JSON object a line")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--full", action="store_true", help="full fine-tuning")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="of the run file"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainer = make_trainer(
        options.base, options.rows, options.max_length, full=options.full, overrides=options.set
    )
    measured = Measured("packtrain", versions={"packtrain": __version__, "torch": torch.__version__})
    for step in range(1, options.steps + 2):
        measured.begin_step()
        result = trainer.step(step, lambda: False)
        measured.end_step(result.tokens)
        measured.losses.append(result.loss)
    measured.print()


if __name__ == "__main__":
    main()
