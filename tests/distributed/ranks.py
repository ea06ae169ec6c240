"""Runs a function of a test module in several processes that find each other over gloo.

The ranks are forked from a server that has imported the heavy libraries once: a rank is there in a moment,
where a Python of its own would need seconds of import each. Whole runs start their ranks as users do.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from packtrain.errors import PacktrainError

TESTS = Path(__file__).parent.parent
#: What ranks of the tests import anyway. Nothing here may start a thread: it would be missing after a fork.
IMPORTED = ["torch.distributed.fsdp", "transformers.models.llama.modeling_llama", "peft", "pytest"]
SURROUNDINGS = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "distributed"), str(TESTS.parent / "src")]),
}


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
    shared = {
        **os.environ,
        **SURROUNDINGS,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(local_size),
    }
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(rank) for rank in range(size)]
        processes = []
        for rank, place in enumerate(places):
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank % local_size)}
            what = (function.__module__, function.__name__, json.dumps(arguments))
            process = _server().Process(target=_rank, args=(str(place), environment, *what), daemon=True)
            process.start()
            processes.append(process)
        deadline = time.monotonic() + timeout
        for process in processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                for each in processes:
                    each.kill()
                process.join()
        ranks = []
        for process, place in zip(processes, places, strict=True):
            code = process.exitcode
            assert code is not None
            result = json.loads(place.read_text()) if code == 0 else None
            ranks.append(Rank(result, code, place.with_suffix(".err").read_text()))
            process.close()
        return ranks


def results(ranks: list[Rank]) -> list[Any]:
    """What each rank returned; fails with the first error where one failed."""
    for rank in ranks:
        assert rank.code == 0, rank.stderr[-3000:]
    return [rank.result for rank in ranks]


@functools.cache
def _server() -> ForkServerContext:
    """Started by the first test that needs it; it ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with patch.dict(os.environ, SURROUNDINGS):
        forkserver.ensure_running()
    return context


def _rank(place: str, environment: dict[str, str], module: str, name: str, packed: str) -> None:
    """What a rank does, in a process of its own."""
    with Path(place).with_suffix(".err").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it follows the environment again
    try:
        outcome = getattr(importlib.import_module(module), name)(*json.loads(packed))
        Path(place).write_text(json.dumps(outcome))
    except PacktrainError as error:
        traceback.print_exc()
        # At once: what is left of the process group would wait for peers that are gone.
        sys.stderr.flush()
        os._exit(error.exit_code)
