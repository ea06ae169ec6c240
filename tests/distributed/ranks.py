"""Runs a function of a test module in several processes that find each other over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent


@dataclass(frozen=True)
class Rank:
    result: Any
    """What the function returned (JSON), None where it failed."""
    code: int
    stderr: str


def run_ranks(
    function: Callable[..., Any],
    size: int,
    *arguments: Any,
    per_node: int | None = None,
    timeout: float = 120,
) -> list[Rank]:
    """``function(*arguments)`` in ``size`` processes; ``per_node`` of them count as one machine.

    Arguments and results go through JSON.
    """
    local_size = per_node or size
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(local_size),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "distributed"), str(TESTS.parent / "src")]),
    }
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(rank) for rank in range(size)]
        processes = []
        for rank, place in enumerate(places):
            command = [sys.executable, __file__, function.__module__, function.__name__, str(place)]
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank % local_size)}
            with place.with_suffix(".err").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [*command, json.dumps(arguments)], env=environment, stdout=log, stderr=log
                    )
                )
        deadline = time.monotonic() + timeout
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                for each in processes:
                    each.kill()
                process.wait()
        return [
            Rank(
                json.loads(place.read_text()) if process.returncode == 0 else None,
                process.returncode,
                place.with_suffix(".err").read_text(),
            )
            for process, place in zip(processes, places, strict=True)
        ]


def results(ranks: list[Rank]) -> list[Any]:
    """What each rank returned; fails with the first error where one failed."""
    for rank in ranks:
        assert rank.code == 0, rank.stderr[-3000:]
    return [rank.result for rank in ranks]


if __name__ == "__main__":
    import importlib

    from packtrain.errors import PacktrainError

    module, name, place, packed = sys.argv[1:]
    try:
        outcome = getattr(importlib.import_module(module), name)(*json.loads(packed))
        Path(place).write_text(json.dumps(outcome))
    except PacktrainError as error:
        traceback.print_exc()
        # At once: what is left of the process group would wait for peers that are gone.
        sys.stderr.flush()
        os._exit(error.exit_code)
