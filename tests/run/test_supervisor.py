"""Supervisors and ranks as real processes: exit codes, what is shown, signals. Without torchrun: fast."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import supervised
from supervised import ROOT, alive, run, start

from packtrain.run.supervisor import train_parser

QUICKSTART = ROOT / "src/packtrain/examples/quickstart.yaml"


@pytest.mark.parametrize(
    ("behaviours", "code", "cause"),
    [
        (["exit:0"], 0, "done"),
        (["tell:0:done", "exit:0", "tell:0:done"], 0, "done"),
        (["exit:78"], 78, "rank 0 ended with exit code 78"),
        (["tell:65:bad row"], 65, "bad row"),
        (["wait", "tell:65:bad row"], 65, "bad row"),
        (["wait", "tell:74:disk full", "wait"], 74, "disk full"),
        (["wait", "raise:boom"], 70, "rank 1 ended with exit code 1"),
        (["wait", "signal:SIGKILL"], 70, "rank 1 died of SIGKILL"),
        (["wait", "segfault"], 70, "rank 1 died of SIGSEGV"),
        (["wait", "tell:69:no bucket"], 69, "no bucket"),
        (["told-and-died"], 70, "rank 0 died of SIGKILL"),
    ],
)
def test_the_exit_code_is_that_of_the_cause(
    tmp_path: Path, behaviours: list[str], code: int, cause: str
) -> None:
    ended = run(tmp_path, *behaviours)
    assert ended.code == code, ended.err
    assert (tmp_path / "end").read_text() == f"{code} {cause}"
    # Nothing is left: no rank, no folder of outcomes.
    assert not any(alive(int(path.read_text())) for path in tmp_path.glob("ready-*"))
    assert [list(folder.iterdir()) for folder in tmp_path.iterdir() if folder.is_dir()] == [[]]


def test_the_first_rank_is_heard_and_the_others_only_where_they_are_the_cause(tmp_path: Path) -> None:
    ended = run(tmp_path, "tell:0:done", "tell:0:done")
    assert (ended.out, ended.err) == ("out of rank 0\n", "err of rank 0\n")
    ended = run(tmp_path, "wait", "tell:65:run.jsonl:7: is empty")
    assert "error: rank 1: run.jsonl:7: is empty" in ended.err
    assert "of rank 1" not in ended.err + ended.out
    ended = run(tmp_path, "tell:65:is empty", "wait")
    assert ended.err.count("is empty") == 1


def test_a_mistake_that_all_ranks_find_is_told_once(tmp_path: Path) -> None:
    ended = run(tmp_path, "tell:78:no such key", "tell:78:no such key")
    assert ended.code == 78
    assert ended.err.count("no such key") == 1


def test_the_last_lines_of_a_rank_that_died(tmp_path: Path) -> None:
    ended = run(tmp_path, "wait", "print:3000")
    assert ended.code == 70
    lines = [line for line in ended.err.splitlines() if line.startswith("  line")]
    assert [int(line.split()[1]) for line in lines] == list(range(2980, 3000))
    ended = run(tmp_path, "wait", "segfault")
    assert "Fatal Python error: Segmentation fault" in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_stop_reaches_every_rank_and_is_a_preemption(tmp_path: Path, number: signal.Signals) -> None:
    job = start(tmp_path, "save:0.3", "save:1.0", "save:0.1")
    job.wait_ready(3)
    job.process.send_signal(number)
    ended = job.end()
    assert ended.code == 75, ended.err
    assert all((tmp_path / f"saved-{rank}").exists() for rank in range(3))
    assert job.cause() == "75 stopped by SIGTERM"


def test_a_stop_when_one_rank_is_done_is_no_success(tmp_path: Path) -> None:
    job = start(tmp_path, "exit:0", "save:0")
    job.wait_ready(2)
    job.process.terminate()
    assert job.end().code == 75


def test_ranks_that_end_well_in_spite_of_a_stop_are_done(tmp_path: Path) -> None:
    job = start(tmp_path, "finish", "finish")
    job.wait_ready(2)
    job.process.terminate()
    assert job.end().code == 0
    assert job.cause() == "0 done"


def test_a_rank_that_does_not_stop_is_killed_after_the_grace(tmp_path: Path) -> None:
    job = start(tmp_path, "deaf", "save:0", grace=0.0)
    job.wait_ready(2)
    pid = job.pid_of(0)
    job.process.terminate()
    ended = job.end()
    assert ended.code == 70
    assert "rank 0 did not end in the grace that it had and was killed" in ended.err
    assert "hint: the same command goes on from the last checkpoint" in ended.err
    assert (tmp_path / "saved-1").exists()
    assert not alive(pid)


def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    job = start(tmp_path, "deaf", "deaf")
    job.wait_ready(2)
    job.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert job.process.poll() is None
    asked = time.monotonic()
    job.process.send_signal(signal.SIGINT)
    ended = job.end()
    assert ended.code == 130
    assert time.monotonic() - asked < 5
    assert "interrupted" in ended.err
    assert not any(alive(job.pid_of(rank)) for rank in range(2))


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    job = start(tmp_path, "wait", before=["nohup"])
    job.wait_ready(1)
    job.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert job.process.poll() is None
    job.process.terminate()
    assert job.end().code == 75


def test_a_lost_peer_lets_a_preemption_be_heard_first(tmp_path: Path) -> None:
    ended = run(tmp_path, "tell:69:a peer is lost", PACKTRAIN_LINGER="1.5")
    assert (ended.code, ended.seconds > 1.5) == (69, True)
    (tmp_path / "end").unlink()
    job = start(tmp_path, "tell:69:a peer is lost", PACKTRAIN_LINGER="60")
    job.wait_for((tmp_path / "end").exists)
    job.process.terminate()
    ended = job.end(timeout=10)
    assert ended.code == 69


def test_other_failures_do_not_linger(tmp_path: Path) -> None:
    assert run(tmp_path, "tell:74:disk full", PACKTRAIN_LINGER="60").seconds < 20


def test_orphans_are_waited_for_and_do_not_stay(tmp_path: Path) -> None:
    job = start(tmp_path, "orphans:1.5")
    job.wait_ready(1)
    listed = tmp_path / "orphans"
    job.wait_for(lambda: listed.exists() and len(listed.read_text().split()) == 2)
    short, long = map(int, (tmp_path / "orphans").read_text().split())
    assert Path(f"/proc/{long}").exists()
    job.wait_for(lambda: not Path(f"/proc/{short}").exists(), seconds=5)  # a zombie would be there
    assert job.end().code == 0
    assert not alive(long)


def test_the_first_rank_keeps_the_terminal_and_ctrl_c_is_for_the_supervisor(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, str(supervised.STANDIN), str(tmp_path), "direct", "15", "tty"]
    process = subprocess.Popen(
        command, env=supervised.environment(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    try:
        while select.select([ours], [], [], 20)[0]:
            data = os.read(ours, 4096)
            said += data
    except OSError:
        pass  # the other end was closed
    finally:
        os.close(ours)
    assert process.wait() == 0
    assert b"tty True True" in said


def test_what_ranks_find_in_their_environment(tmp_path: Path) -> None:
    assert run(tmp_path, "environment", "environment").code == 0
    for rank in range(2):
        lines = (tmp_path / f"environment-{rank}").read_text().splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) == (str(rank), str(rank), "2")
        assert Path(found["PACKTRAIN_OUTCOMES"]).name.startswith("packtrain-outcomes-")
        assert found["PYTHONUNBUFFERED"] == "1"
        assert int(found["OMP_NUM_THREADS"]) >= 1


def supervisor(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "packtrain.run.supervisor", *arguments],
        env=supervised.environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--", "train", "missing.yaml"], 78, "error: missing.yaml"),
        (["--", "train", "bad.yaml"], 78, "error: bad.yaml:2: nam: unknown key"),
        (["--", "train", str(QUICKSTART), "-s", "train.epochs=no"], 78, "train.epochs"),
        (["--", "train", str(QUICKSTART), "--set", "epochs"], 2, "KEY=VALUE"),
        (["--", "train"], 2, "error: the following arguments are required: run"),
        (["--", "chat", "x"], 2, "invalid choice: 'chat'"),
        (["--", "train", "bad.yaml", "--nwe"], 2, "unrecognized arguments: --nwe"),
        (["--processes", "0", "--", "train", "bad.yaml"], 2, "error: --processes is 0"),
        (["--processes", "two", "--", "train", "bad.yaml"], 2, "invalid int value: 'two'"),
        ([], 2, "the following arguments are required"),
    ],
)
def test_mistakes_are_told_once_before_anything_is_started(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "bad.yaml").write_text("# a run\nnam: a\n")
    ended = supervisor(tmp_path, *arguments)
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_stop_before_the_start_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from packtrain.run.signals import Signals\n"
        "from packtrain.run.supervisor import supervise\n"
        "with Signals() as signals:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    sys.exit(supervise(sys.argv[1:], processes=2, worker=['touch'], signals=signals))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "started")],
        env=supervised.environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 75, ended.stderr
    assert "stopped by SIGTERM before the training had begun" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_reads_the_options_of_train_and_no_others() -> None:
    import typer

    from packtrain.cli.main import application

    train = typer.main.get_command(application(["train"])).commands["train"]  # type: ignore[attr-defined]
    theirs = {option for each in train.params for option in each.opts if option not in {"-h", "--help"}}
    ours = {option for action in train_parser()._actions for option in action.option_strings}
    assert ours == {option for option in theirs if option.startswith("-")} - {"--processes"}


def test_it_imports_no_torch() -> None:
    code = "import sys, packtrain.run.supervisor\nprint(*sorted(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in ended.stdout.split()}
    assert loaded.isdisjoint({"torch", "numpy", "pydantic", "yaml", "typer"})


def test_a_stop_that_comes_while_it_ends_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from packtrain.run.supervisor import main\n"
        "code = main(['--', 'train', 'missing.yaml'], last=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(code)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=supervised.environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 78, ended.stderr
