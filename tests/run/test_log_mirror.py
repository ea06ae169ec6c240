"""The last lines of the ranks in the bucket, and the pipes through which they go."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from packtrain.errors import UnavailableError
from packtrain.run.log_mirror import FIRST_TAIL, LogMirror, Tail, read_logs
from packtrain.storage import open_storage
from packtrain.storage.base import ObjectInfo
from packtrain.storage.local import LocalStorage

ROOT = Path(__file__).parents[2]


class TestTail:
    def test_all_of_it_while_it_is_short(self) -> None:
        tail = Tail(100)
        tail.add(b"one\n")
        tail.add(b"two")
        assert tail.get() == b"one\ntwo"

    def test_the_end_of_it_from_a_whole_line_on(self) -> None:
        tail = Tail(20)
        for number in range(100):
            tail.add(b"line %02d\n" % number)
        assert tail.get() == b"(earlier lines are left out)\nline 98\nline 99\n"
        assert tail.total == 800

    def test_one_line_without_an_end_does_not_grow_for_ever(self) -> None:
        tail = Tail(1000)
        for _ in range(100):
            tail.add(b"x" * 999)
        assert len(tail.get()) < 1100


def test_logs_come_back_by_attempt_and_rank(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    mirror = LogMirror(storage, node=1, ranks=2, secrets=("hf_secret", ""))
    mirror.first.add(b"rank 2 says hf_secret\n")
    mirror.heard(1, b"rank 3\n")
    assert mirror.close(10)
    first, second = read_logs(storage)
    assert first.attempt.endswith("Z-node-1")
    assert (first.rank, first.text) == (2, "rank 2 says [hidden]\n")
    assert (second.rank, second.text) == (3, "rank 3\n")


def test_ranks_that_said_nothing_have_no_object_and_the_same_is_not_sent_twice(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    mirror = LogMirror(storage, node=0, ranks=8)
    mirror.first.add(b"a\n")
    mirror.push()
    [info] = storage.list()
    mirror.push()
    assert storage.list() == [info]
    assert mirror.close(10)


def test_what_does_not_fit_is_left_out_at_the_beginning(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    mirror = LogMirror(storage, node=0, ranks=1)
    for _ in range(40):
        mirror.first.add(b"." * 99_999 + b"\n")
    mirror.first.add(b"the end\n")
    assert mirror.close(10)
    [log] = read_logs(storage)
    assert len(log.text) <= FIRST_TAIL + 100
    assert log.text.endswith("the end\n")


def test_a_bucket_that_is_away_ends_nothing_and_gets_all_later(tmp_path: Path) -> None:
    back = threading.Event()

    class Away(LocalStorage):
        def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> ObjectInfo:
            if not back.is_set():
                raise UnavailableError("gone")
            return super().write(name, data, if_generation=if_generation)

    mirror = LogMirror(Away(tmp_path), node=0, ranks=1, every=0.02)
    mirror.first.add(b"while it is away\n")
    assert not mirror.close(0.2)
    mirror = LogMirror(Away(tmp_path), node=0, ranks=1, every=0.02)
    mirror.first.add(b"while it is away\n")
    back.set()
    assert mirror.close(10)
    assert [log.text for log in read_logs(open_storage(tmp_path))] == ["while it is away\n"]


def test_foreign_objects_among_the_logs_are_passed_over(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("logs/notes.txt", b"mine")
    storage.write("logs/x/rank-a.log", b"mine")
    assert read_logs(storage) == []


PROGRAM = """
    import os, subprocess, sys
    from packtrain.run.log_mirror import Tail, Tee
    tail = Tail(1 << 20)
    print("before")
    with Tee(tail) as tee:
        print("out")
        print("err", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo child; echo child err >&2"])
        os.write(1, b"x" * 300_000 + b"\\n")
        tee.settle()
        seen = tail.total
        {more}
    print("after")
    assert seen >= 300_000, seen
    with open(sys.argv[1], "wb") as file:
        file.write(tail.get())
"""


def run_tee(tmp_path: Path, more: str = "pass") -> tuple[subprocess.CompletedProcess[str], str]:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM.format(more=more)), str(tmp_path / "tail")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended, (tmp_path / "tail").read_text()


def test_what_is_printed_is_shown_and_kept(tmp_path: Path) -> None:
    ended, kept = run_tee(tmp_path)
    assert ended.stdout.replace("x", "") == "before\nout\nchild\n\nafter\n"
    assert ended.stderr == "err\nchild err\n"
    assert ended.stdout.count("x") == kept.count("x") == 300_000
    assert sorted(kept.replace("x", "").split("\n")) == ["", "", "child", "child err", "err", "out"]


@pytest.mark.slow
def test_an_orphan_that_holds_the_pipe_does_not_hold_up_the_end(tmp_path: Path) -> None:
    more = 'subprocess.Popen(["sleep", "5"], start_new_session=True)'
    ended, kept = run_tee(tmp_path, more)
    assert ended.stdout.endswith("after\n")
    assert "child" in kept
