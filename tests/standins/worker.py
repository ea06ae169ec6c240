"""A rank that does as its argument says: ``worker.py FOLDER BEHAVIOUR_OF_RANK_0 BEHAVIOUR_OF_RANK_1 …``.

Touches ``FOLDER/ready-RANK`` when its signal handlers are there. It imports no torch, but for ``collective``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from packtrain.run.outcome import is_preemption, write_outcome

RANK = int(os.environ["RANK"])


def end(exit_code: int, message: str) -> None:
    write_outcome(exit_code, message)
    if exit_code:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


def main() -> None:  # noqa: PLR0912  (a list of behaviours)
    folder, behaviour = Path(sys.argv[1]), sys.argv[2 + RANK]
    kind, _, detail = behaviour.partition(":")

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not is_preemption():
            end(69, "a peer is lost")
        if kind == "finish":
            end(0, "done")
        if kind == "save":
            time.sleep(float(detail))
            (folder / f"saved-{RANK}").touch()
        end(75, "stopped by SIGTERM")

    signal.signal(signal.SIGTERM, signal.SIG_IGN if kind == "deaf" else stop)
    # Whole or not at all: a stop can come at any moment from here on.
    (folder / f".ready-{RANK}").write_text(str(os.getpid()))
    (folder / f".ready-{RANK}").rename(folder / f"ready-{RANK}")
    print(f"out of rank {RANK}")
    print(f"err of rank {RANK}", file=sys.stderr)
    if kind == "exit":
        sys.exit(int(detail))
    if kind == "tell":
        code, _, message = detail.partition(":")
        end(int(code), message)
    if kind == "told-and-died":
        write_outcome(0, "done")
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise RuntimeError(detail)
    if kind == "signal":
        os.kill(os.getpid(), signal.Signals[detail])
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "print":
        for number in range(int(detail)):
            print(f"line {number} " + "." * 80, file=sys.stderr)
        sys.exit(70)
    if kind == "orphans":
        # Each leaves a child that outlives it: one ends soon, one would stay.
        for seconds in ("0.2", "600"):
            subprocess.run(["sh", "-c", f"sleep {seconds} & echo $! >> {folder}/orphans"], check=True)
        time.sleep(float(detail))
        end(0, "done")
    if kind == "tty":
        print(f"tty {sys.stdout.isatty()} {sys.stderr.isatty()}")
        end(0, "done")
    if kind == "environment":
        (folder / f"environment-{RANK}").write_text("\n".join(f"{k}={v}" for k, v in os.environ.items()))
        end(0, "done")
    if kind in {"collective", "skip-collective"}:
        import torch
        from torch import distributed

        distributed.init_process_group("gloo")
        world = distributed.get_world_size()
        total = torch.ones(1)
        distributed.all_reduce(total)
        assert total.item() == world
        if kind == "skip-collective":
            end(int(detail), "bad data on this rank")
        try:
            distributed.all_reduce(total)
        except RuntimeError:
            end(69, "a peer is lost")
        end(0, "done")
    time.sleep(600)


main()
