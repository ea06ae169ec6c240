"""What happens to a supervisor and under it: its launcher is killed, it is itself, memory runs out, PID 1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervised import Supervised, alive, start

from packtrain.run.processes import oom_kill_files, oom_kills

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


def unshare_works() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


needs_namespace = pytest.mark.skipif(not unshare_works(), reason="unshare: no right to a PID namespace")
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def launcher_of(job: Supervised) -> int:
    [pid] = Path(f"/proc/{job.process.pid}/task/{job.process.pid}/children").read_text().split()
    return int(pid)


def wait_until_gone(pids: list[int], seconds: float) -> None:
    until = time.monotonic() + seconds
    while any(map(alive, pids)):
        assert time.monotonic() < until, f"{pids} are still there"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("engine", "first"), [("direct", "wait"), pytest.param("torchrun", "deaf", marks=pytest.mark.slow)]
)
def test_a_launcher_that_is_killed_takes_its_ranks_along(tmp_path: Path, engine: str, first: str) -> None:
    job = start(tmp_path, first, "wait", engine=engine)
    job.wait_ready(2)
    os.kill(launcher_of(job), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 70
    assert "the launcher of the ranks failed: died of SIGKILL" in ended.err
    assert not alive(job.pid_of(0))
    assert not alive(job.pid_of(1))


@pytest.mark.parametrize("engine", ["direct", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_no_rank_trains_on_when_the_supervisor_is_killed(tmp_path: Path, engine: str) -> None:
    job = start(tmp_path, "wait", "wait", engine=engine)
    job.wait_ready(2)
    job.process.kill()
    job.end()
    wait_until_gone([job.pid_of(rank) for rank in range(2)], seconds=20)


@pytest.mark.slow
def test_a_rank_that_does_not_stop_under_torchrun(tmp_path: Path) -> None:
    job = start(tmp_path, "save:0", "deaf", engine="torchrun", grace=1.0)
    job.wait_ready(2)
    job.process.terminate()
    ended = job.end()
    assert ended.code == 70
    assert "rank 1 did not end in the grace that it had and was killed" in ended.err
    assert not alive(job.pid_of(1))


@pytest.mark.slow
def test_a_failure_of_torchrun_itself_is_shown_with_its_log(tmp_path: Path) -> None:
    job = start(tmp_path, "wait", "wait", engine="torchrun", PYTHONPATH=_broken_torch(tmp_path))
    ended = job.end()
    assert ended.code == 70
    assert "the launcher of the ranks failed: ended with 1" in ended.err
    assert "its log:" in ended.err
    assert "ImportError: libcuda" in ended.err


def _broken_torch(folder: Path) -> str:
    package = folder / "broken" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libcuda is not the one for this torch')\n")
    return os.pathsep.join([str(package.parent), str(Path(__file__).resolve().parents[2] / "src")])


def in_namespace(job: Supervised) -> int:
    """The supervisor that is PID 1 in there, by its number out here."""
    [pid] = Path(f"/proc/{job.process.pid}/task/{job.process.pid}/children").read_text().split()
    assert Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split()[1] == "1"
    return int(pid)


@needs_namespace
@pytest.mark.parametrize("engine", ["direct", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_docker_stop_lets_ranks_save_in_time(tmp_path: Path, engine: str) -> None:
    """SIGTERM to PID 1 of a PID namespace, and SIGKILL 15 s later."""
    job = start(tmp_path, "save:2", "save:1", engine=engine, before=NAMESPACE)
    job.wait_ready(2)
    supervisor = in_namespace(job)
    os.kill(supervisor, signal.SIGTERM)
    asked = time.monotonic()
    ended = job.end(timeout=15)  # later, SIGKILL would have come
    assert ended.code == 75, ended.err
    assert time.monotonic() - asked < 10
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()


@needs_namespace
def test_docker_kill_leaves_nothing(tmp_path: Path) -> None:
    job = start(tmp_path, "deaf", "deaf", before=NAMESPACE)
    job.wait_ready(2)
    supervisor = in_namespace(job)
    below = [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    os.kill(supervisor, signal.SIGKILL)
    job.end()
    wait_until_gone([supervisor, *below], seconds=10)


@needs_namespace
def test_pid_1_waits_for_orphans(tmp_path: Path) -> None:
    job = start(tmp_path, "orphans:2", before=NAMESPACE)
    job.wait_ready(1)
    orphans = tmp_path / "orphans"
    job.wait_for(lambda: orphans.exists() and len(orphans.read_text().split()) == 2)
    supervisor = in_namespace(job)
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    assert len(children.read_text().split()) >= 2  # the launcher, and an orphan or two
    time.sleep(1.0)
    states = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        for pid in children.read_text().split()
    ]
    assert len(states) == 2  # the launcher, and the orphan that stays
    assert "Z" not in states
    assert job.end().code == 0


def test_where_the_kernel_counts_what_it_kills(tmp_path: Path) -> None:
    v1, v2, machine = tmp_path / "memory.oom_control", tmp_path / "memory.events", tmp_path / "vmstat"
    v1.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    v2.write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n")
    machine.write_text("nr_free_pages 1\noom_kill 5\n")
    missing = tmp_path / "missing"
    assert oom_kills([missing, v2, machine]) == 1
    assert oom_kills([v1, machine]) == 2
    assert oom_kills([missing, machine]) == 5
    assert oom_kills([missing]) == 0
    assert oom_kill_files()[-1] == Path("/proc/vmstat")
