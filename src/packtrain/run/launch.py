"""Starts the ranks of one node and tells how the process of each ended.

The engine is torchrun (several processes), or this file alone (one, or several where nothing has to be
found out from other nodes): seconds faster, for it imports no torch. torchrun's own program returns 1
whatever happened, and shows tables of its own; here it is called with what it would be called with on
the command line, its log goes to a file, and the exit codes that it saw are kept. Run by the supervisor
as ``python -m packtrain.run.launch``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packtrain.ending import end_process
from packtrain.errors import UsageError
from packtrain.run.heavy import heavy_imports
from packtrain.run.outcome import FOLDER, ProcessEnd
from packtrain.run.processes import die_with
from packtrain.rundir import write_atomically

Engine = Literal["direct", "torchrun"]
LOG = "launcher.log"
_ENDS = "ends.json"
#: Seconds that ranks get to end after another one failed; torchrun's own, which cannot be set there.
AFTER_FAILURE = 30.0


@dataclass(frozen=True)
class Nodes:
    """The machines of a run, as the environment of a pod tells them."""

    count: int = 1
    rank: int = 0
    master_address: str = "127.0.0.1"
    master_port: int = 29500

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Nodes:
        """From ``PACKTRAIN_NODES`` and, for several, ``PACKTRAIN_NODE_RANK`` (or a Job's own
        ``JOB_COMPLETION_INDEX``), ``PACKTRAIN_MASTER_ADDR`` and ``PACKTRAIN_MASTER_PORT``.

        Raises :class:`~packtrain.errors.UsageError` for values that make no sense.
        """
        count = _number(environment, "PACKTRAIN_NODES", 1)
        if count == 1:
            return cls()
        place = "PACKTRAIN_NODE_RANK" if "PACKTRAIN_NODE_RANK" in environment else "JOB_COMPLETION_INDEX"
        rank = _number(environment, place, -1)
        address = environment.get("PACKTRAIN_MASTER_ADDR", "")
        if count < 1:
            raise UsageError(f"PACKTRAIN_NODES is {count}; a run has one node or more")
        if not 0 <= rank < count:
            raise UsageError(f"{place} has to say which of the {count} nodes this one is, from 0")
        if not address:
            raise UsageError(f"PACKTRAIN_MASTER_ADDR has to name the first of the {count} nodes")
        return cls(count, rank, address, _number(environment, "PACKTRAIN_MASTER_PORT", 29500))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise UsageError(f"{name} is {environment[name]!r}, which is no whole number") from None


def torchrun_arguments(command: Sequence[str], processes: int, nodes: Nodes) -> list[str]:
    """torchrun's command line, without ``torchrun``, for ``processes`` ranks that each run ``command``.

    One node is what ``--standalone`` stands for, but at an address that resolves in any container.
    """
    if nodes.count == 1:
        meeting = ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
        meeting += ["--local-addr=127.0.0.1"]
    else:
        meeting = [f"--nnodes={nodes.count}", f"--node-rank={nodes.rank}", "--rdzv-backend=static"]
        meeting += [f"--master-addr={nodes.master_address}", f"--master-port={nodes.master_port}"]
    # Nodes that do not say the same id never meet; whose run it is, the address and port say.
    meeting += ["--rdzv-id=packtrain", f"--nproc-per-node={processes}", "--max-restarts=0"]
    return [*meeting, f"--log-dir={os.devnull}", "--no-python", *command]


def launcher_arguments(
    command: Sequence[str], engine: Engine, processes: int, nodes: Nodes, parent: int
) -> list[str]:
    """The command line of this module for the same."""
    head = [sys.executable, "-m", "packtrain.run.launch", f"--parent={parent}", f"--processes={processes}"]
    if engine == "torchrun":
        return [*head, engine, *torchrun_arguments(command, processes, nodes)]
    return [*head, engine, *command]


def output_pipe(folder: Path, local_rank: int) -> Path:
    """Where a rank other than the node's first, whose output passes through, writes what it prints."""
    return folder / f"output-{local_rank}"


def read_ends(folder: Path) -> tuple[dict[int, ProcessEnd], str | None] | None:
    """How ranks ended that did not end with 0, and torchrun's own failure; None: the launcher was killed."""
    try:
        told = json.loads((folder / _ENDS).read_bytes())
    except FileNotFoundError:
        return None
    return {int(rank): ProcessEnd(**end) for rank, end in told["ends"].items()}, told["error"]


def _write_ends(folder: Path, ends: Mapping[int, ProcessEnd], error: str | None = None) -> None:
    told = {"ends": {rank: asdict(end) for rank, end in ends.items()}, "error": error}
    write_atomically(folder / _ENDS, json.dumps(told).encode())


def _direct(command: Sequence[str], processes: int, folder: Path) -> dict[int, ProcessEnd]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    running: dict[int, subprocess.Popen[bytes]] = {}

    def terminate(*_: object) -> None:
        for process in running.values():
            with suppress(ProcessLookupError):
                process.terminate()

    signal.signal(signal.SIGTERM, terminate)
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {"MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        output = output_pipe(folder, rank).open("wb") if rank else None
        running[rank] = subprocess.Popen(
            command,
            env=environment | {"MASTER_ADDR": "127.0.0.1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        if output:
            output.close()
    ends: dict[int, ProcessEnd] = {}
    patience = float("inf")
    while running:
        time.sleep(0.05)
        for rank, process in list(running.items()):
            status = process.poll()
            if status is not None:
                del running[rank]
                ends[rank] = ProcessEnd(status, time.time())
        if patience == float("inf") and any(end.status for end in ends.values()):
            patience = time.monotonic() + AFTER_FAILURE
            terminate()
        if time.monotonic() > patience:
            for process in running.values():
                process.kill()
    return {rank: end for rank, end in ends.items() if end.status}


def _torchrun(arguments: Sequence[str], folder: Path) -> tuple[dict[int, ProcessEnd], str | None]:
    # The ranks inherit the descriptors 1 and 2; what this process itself says goes to the log.
    sys.stdout = sys.stderr = (folder / LOG).open("w", buffering=1)
    told = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # read when torch is imported; goes to descriptor 2
    with heavy_imports():
        from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch
        from torch.distributed.run import config_from_args, parse_args

    if told is None:
        del os.environ["TORCH_CPP_LOG_LEVEL"]
    else:
        os.environ["TORCH_CPP_LOG_LEVEL"] = told

    class Outputs(LogsSpecs):
        """The first rank's output passes through; the others write to the supervisor's pipes."""

        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            for environment in envs.values():
                environment["TORCHELASTIC_ERROR_FILE"] = ""
            paths = {rank: str(output_pipe(folder, rank)) if rank else "" for rank in envs}
            return LogsDest(paths, paths, {}, {}, dict.fromkeys(envs, os.devnull))

        @property
        def root_log_dir(self) -> str:
            return os.devnull

    config, entrypoint, rest = config_from_args(parse_args(list(arguments)))
    config.logs_specs = Outputs()
    try:
        elastic_launch(config, entrypoint)(*rest)
    except ChildFailedError as error:
        failures: Mapping[int, Any] = error.failures
        return {rank: ProcessEnd(each.exitcode, each.timestamp) for rank, each in failures.items()}, None
    except SignalException as error:
        return {}, f"ended by {error.sigval.name}"
    except Exception as error:  # noqa: BLE001  (a peer that does not come, a port that is taken: the log says)
        import traceback

        traceback.print_exc()
        return {}, f"{type(error).__name__}: {error}"
    return {}, None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m packtrain.run.launch")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("engine", choices=["direct", "torchrun"])
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    die_with(options.parent)
    folder = Path(os.environ[FOLDER])
    error = None
    if options.engine == "direct":
        ends = _direct(options.rest, options.processes, folder)
    else:
        ends, error = _torchrun(options.rest, folder)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing is left to stop, and what is known is to be kept
    _write_ends(folder, ends, error)
    return 0


def visible_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """NVIDIA GPUs that a process may use, without importing torch to ask the driver."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([each for each in chosen.split(",") if each.strip() and each.strip() != "-1"])
    return sum(1 for path in devices.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())


if __name__ == "__main__":
    end_process(main())
