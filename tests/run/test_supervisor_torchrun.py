"""The same through torchrun, with real collectives, on one node and on two."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest
from supervised import Ended, Supervised, alive, run, start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("behaviours", "code", "cause"),
    [
        (["exit:0", "tell:0:done"], 0, "done"),
        (["wait", "tell:78:no such key"], 78, "no such key"),
        (["wait", "raise:boom"], 70, "rank 1 ended with exit code 1"),
        (["wait", "signal:SIGKILL"], 70, "rank 1 died of SIGKILL"),
        (["segfault", "wait"], 70, "rank 0 died of SIGSEGV"),
    ],
)
def test_the_exit_code_is_that_of_the_cause(
    tmp_path: Path, behaviours: list[str], code: int, cause: str
) -> None:
    ended = run(tmp_path, *behaviours, engine="torchrun")
    assert ended.code == code, ended.err
    assert (tmp_path / "end").read_text() == f"{code} {cause}"
    # Neither torchrun's tables nor its warnings, and none of its folders.
    assert "torch" not in ended.err + ended.out
    assert [list(folder.iterdir()) for folder in tmp_path.iterdir() if folder.is_dir()] == [[]]


def test_ranks_in_a_collective_do_not_wait_for_one_that_failed(tmp_path: Path) -> None:
    ended = run(tmp_path, "collective", "skip-collective:65", engine="torchrun")
    assert ended.code == 65, ended.err
    assert (tmp_path / "end").read_text() == "65 bad data on this rank"
    assert ended.seconds < 60


def test_a_stop_leaves_the_ranks_their_time_to_save(tmp_path: Path) -> None:
    job = start(tmp_path, "save:0.2", "save:3", engine="torchrun")
    job.wait_ready(2)
    job.process.terminate()
    ended = job.end()
    assert ended.code == 75, ended.err
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()


@pytest.mark.parametrize("delay", [0.1, 0.6, 1.2])
def test_a_stop_while_torchrun_starts(tmp_path: Path, delay: float) -> None:
    job = start(tmp_path, "wait", "wait", engine="torchrun")
    job.wait_for(lambda: any(job.temporary.iterdir()))
    time.sleep(delay)
    job.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    ended = job.end()
    assert ended.code == 75, ended.err
    assert time.monotonic() - asked < 15
    assert not any(alive(int(path.read_text())) for path in tmp_path.glob("ready-*"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def nodes(folder: Path, *behaviours: str, only: int | None = None) -> list[Supervised]:
    port = str(free_port())
    return [
        start(
            folder,
            *behaviours,
            engine="torchrun",
            PACKTRAIN_NODES="2",
            PACKTRAIN_MASTER_ADDR="127.0.0.1",
            PACKTRAIN_MASTER_PORT=port,
            JOB_COMPLETION_INDEX=str(node),
        )
        for node in ([0, 1] if only is None else [only])
    ]


def ends(jobs: list[Supervised]) -> list[Ended]:
    return [job.end() for job in jobs]


def test_two_nodes_find_one_another(tmp_path: Path) -> None:
    first, second = ends(nodes(tmp_path, *["environment"] * 4))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert sorted(path.name for path in tmp_path.glob("environment-*")) == [
        f"environment-{rank}" for rank in range(4)
    ]
    assert "out of rank 0" in first.out
    assert "out of rank 2" in second.out


def test_each_node_ends_with_what_happened_on_it(tmp_path: Path) -> None:
    first, second = ends(nodes(tmp_path, "collective", "skip-collective:71"))
    assert (first.code, second.code) == (69, 71), first.err + second.err


def test_a_stop_of_a_node_that_waits_for_the_other(tmp_path: Path) -> None:
    [job] = nodes(tmp_path, "wait", "wait", only=0)
    time.sleep(4)
    job.process.terminate()
    ended = job.end(timeout=20)
    assert ended.code == 75, ended.err
    assert not list(tmp_path.glob("ready-*"))
