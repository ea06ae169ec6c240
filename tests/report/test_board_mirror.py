"""TensorBoard's files in the bucket: as they grow, at the end, and after an attempt that sent nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_kit import started, step
from standins.bucket import BucketServer
from tfevents import records
from whole_run import Job

from packtrain.errors import UnavailableError
from packtrain.report.tensorboard import FOLDER, board
from packtrain.run.board_mirror import BoardMirror, board_copied
from packtrain.rundir import Event
from packtrain.storage import ObjectInfo
from packtrain.storage.local import LocalStorage


def event(kind: str, at: int, given: dict[str, Any]) -> Event:
    return Event(kind, at, 2, 0, "2026-01-01T00:00:00.500Z", fields=given)


def test_what_grows_is_sent_whole_and_what_was_left_is_sent_too(tmp_path: Path) -> None:
    run, there = tmp_path / "run", tmp_path / "there"
    (run / FOLDER).mkdir(parents=True)
    (run / FOLDER / "events.out.tfevents.1.host.000001").write_bytes(b"of an attempt that was killed")
    mirror = BoardMirror(run, LocalStorage(there), every=3600.0)
    with board(run, 2, print) as write:
        write(event(*started()))
        write(event(*step(1)))
        mirror.push()
        [old, new] = sorted((there / FOLDER).iterdir())
        assert old.read_bytes() == b"of an attempt that was killed"
        first = new.read_bytes()
        assert len(list(records(first))) == 3
        write(event(*step(2)))
    mirror.close(60)
    assert new.read_bytes().startswith(first) and len(list(records(new.read_bytes()))) == 4


def test_what_is_there_is_not_sent_again(tmp_path: Path) -> None:
    class Counting(LocalStorage):
        written: list[str] = []  # noqa: RUF012

        def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> ObjectInfo:
            self.written.append(name)
            return super().write(name, data, if_generation=if_generation)

    for _ in range(2):
        with board_copied(tmp_path / "run", Counting(tmp_path / "there"), lambda: 60.0):
            (tmp_path / "run" / FOLDER).mkdir(parents=True, exist_ok=True)
            (tmp_path / "run" / FOLDER / "a").write_bytes(b"1")
    assert Counting.written == [f"{FOLDER}/a"]


def test_a_bucket_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    class Away(LocalStorage):
        def list(self, prefix: str = "") -> list[ObjectInfo]:
            raise UnavailableError("the bucket is away")

    (tmp_path / "run" / FOLDER).mkdir(parents=True)
    with board_copied(tmp_path / "run", Away(tmp_path / "there"), lambda: 0.05):
        pass
    with board_copied(tmp_path / "run", None, lambda: 0.05):
        pass
    assert not (tmp_path / "there").exists()


@pytest.mark.slow
def test_of_a_run_in_a_bucket(job: Job, bucket_server: BucketServer) -> None:
    job.done("-s", f"output.uri={bucket_server.uri('out')}")
    [here] = (job.run_dir.path / FOLDER).iterdir()
    [there] = [name for name in bucket_server.names("packtrain/tiny/") if f"/{FOLDER}/" in name]
    assert there.endswith(f"/{here.name}")
    assert bucket_server.data(there) == here.read_bytes()
