"""Fine-tunes as a run file says, with a process for each GPU; the exit code tells how it ended.

    python scripts/finetune.py run.yaml [-s KEY=VALUE ...]

It is what the image starts by itself. The Job of finetune-job.yaml starts packtrain's supervisor with the
same arguments.
"""

import os
import sys
from pathlib import Path

from packtrain.run.launch import visible_gpus
from packtrain.run.supervisor import main


def finetune(run_file: str, *options: str) -> int:
    """Train and publish; returns the exit code. The same call goes on after an interruption."""
    folder = Path(os.environ.get("PACKTRAIN_WORK", ".")) / "run"
    train = ["train", run_file, "--run-dir", str(folder), *options]
    return main(["--processes", str(max(1, visible_gpus())), "--", *train])


if __name__ == "__main__":
    sys.exit(finetune(*(sys.argv[1:] or ["run.yaml"])))
