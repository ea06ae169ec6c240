"""Events in a bucket: every line once, in order, whatever fails on the way; and back again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from checkpoints import PLACE, connect, until
from standins.bucket import BucketServer, Fault, bucket_server  # noqa: F401

from packtrain.errors import ConflictError, UnavailableError
from packtrain.run.event_mirror import EventMirror, compact, restore_events
from packtrain.rundir import EventWriter, RunDir, history
from packtrain.storage.gcs import GcsStorage


@pytest.fixture
def remote(bucket_server: BucketServer) -> Iterator[GcsStorage]:  # noqa: F811
    storage = connect(bucket_server)
    yield storage
    storage.close()


def write(run_dir: RunDir, attempt: int, first: int, last: int) -> None:
    """Steps ``first`` to ``last`` of an attempt, with its start where the file has none of it."""
    with EventWriter(run_dir.events_file, attempt) as events:
        already = sum(event.attempt == attempt for event in history(run_dir.events_file))
        events.seq = already
        if not already:
            events.write("start", first - 1, resumed_from=first - 1 or None)
        for step in range(first, last + 1):
            events.write("step", step, loss=1.0)


def mirror(run_dir: RunDir, remote: GcsStorage) -> EventMirror:
    """One that sends only when it is asked to."""
    return EventMirror(run_dir.events_file, remote, every=3600, retry_delay=0.02)


def sent(server: BucketServer) -> dict[str, int]:
    """Segments and how many lines are in each."""
    found = server.snapshot(f"{PLACE}/events/")
    return {name.rpartition("/")[2]: data.count(b"\n") for name, data in found.items()}


def restored(folder: Path, remote: GcsStorage) -> bytes:
    restore_events(RunDir(folder), remote)
    return RunDir(folder).events_file.read_bytes()


def test_only_new_lines_go_in_segments_named_by_their_first(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    run_dir = RunDir(tmp_path / "one")
    events = mirror(run_dir, remote)
    assert events.flush(20)
    assert sent(bucket_server) == {}
    write(run_dir, 1, 1, 2)
    assert events.flush(20)
    assert events.flush(20)
    write(run_dir, 1, 3, 3)
    assert events.close(20)
    assert sent(bucket_server) == {"000001-0000000000.jsonl": 3, "000001-0000000003.jsonl": 1}
    assert restored(tmp_path / "two", remote) == run_dir.events_file.read_bytes()
    assert events.poll() == []


def test_by_itself_every_few_seconds(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    run_dir = RunDir(tmp_path / "one")
    events = EventMirror(run_dir.events_file, remote, every=0.02)
    write(run_dir, 1, 1, 2)
    until(lambda: sum(sent(bucket_server).values()) == 3)
    events.close(20)


def test_what_an_attempt_could_not_send_goes_with_the_next(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    run_dir = RunDir(tmp_path / "one")
    write(run_dir, 1, 1, 2)
    events = mirror(run_dir, remote)
    assert events.close(20)
    write(run_dir, 1, 3, 4)
    write(run_dir, 2, 3, 5)
    assert mirror(run_dir, remote).close(20)
    assert sent(bucket_server) == {
        "000001-0000000000.jsonl": 3,
        "000001-0000000003.jsonl": 2,
        "000002-0000000000.jsonl": 4,
    }
    assert restored(tmp_path / "two", remote) == run_dir.events_file.read_bytes()


def test_both_sides_may_have_what_the_other_lacks(tmp_path: Path, remote: GcsStorage) -> None:
    one, two = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    write(one, 1, 1, 2)
    assert mirror(one, remote).close(20)
    restored(two.path, remote)
    write(one, 1, 3, 4)
    write(two, 2, 3, 3)
    assert mirror(two, remote).close(20)
    restore_events(one, remote)
    story = [(event.attempt, event.kind, event.step) for event in history(one.events_file)]
    assert story == [(1, "start", 0), (1, "step", 1), (1, "step", 2), (2, "start", 2), (2, "step", 3)]
    write(one, 3, 4, 4)
    assert mirror(one, remote).close(20)
    assert restored(tmp_path / "three", remote) == one.events_file.read_bytes()
    assert [event.step for event in history(one.events_file) if event.kind == "step"] == [1, 2, 3, 4]


def test_segments_that_are_known_are_not_read_again(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    run_dir = RunDir(tmp_path / "one")
    for attempt in (1, 2):
        for step in (1, 2, 3):
            write(run_dir, attempt, step, step)
            assert mirror(run_dir, remote).close(20)
    bucket_server.log.clear()
    before = run_dir.events_file.stat().st_mtime_ns
    restore_events(run_dir, remote)
    read = [path for _, path in bucket_server.log if "alt=media" in path]
    assert read == []
    assert run_dir.events_file.stat().st_mtime_ns == before


def test_a_torn_line_waits_until_it_is_whole(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    run_dir = RunDir(tmp_path / "one")
    write(run_dir, 1, 1, 2)
    whole = run_dir.events_file.read_bytes()
    run_dir.events_file.write_bytes(whole[:-9])
    events = mirror(run_dir, remote)
    assert events.flush(20)
    assert sent(bucket_server) == {"000001-0000000000.jsonl": 2}
    run_dir.events_file.write_bytes(whole)
    assert events.close(20)
    assert sent(bucket_server) == {"000001-0000000000.jsonl": 2, "000001-0000000002.jsonl": 1}


def test_an_answer_that_was_lost_sends_nothing_twice(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    run_dir = RunDir(tmp_path / "one")
    write(run_dir, 1, 1, 2)
    events = mirror(run_dir, remote)
    assert events.flush(20)
    bucket_server.faults.add("POST", "upload", Fault(cut_answer=-1))
    bucket_server.faults.add("POST", "upload", Fault(status=503))
    write(run_dir, 1, 3, 3)
    with pytest.raises(UnavailableError):
        events.push()
    write(run_dir, 1, 4, 4)
    assert events.close(20)
    assert sent(bucket_server) == {
        "000001-0000000000.jsonl": 3,
        "000001-0000000003.jsonl": 1,
        "000001-0000000004.jsonl": 1,
    }
    assert restored(tmp_path / "two", remote) == run_dir.events_file.read_bytes()


def test_another_processs_events_under_our_numbers_are_a_conflict(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    one, two = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    events = mirror(one, remote)
    assert events.flush(20)
    write(one, 1, 1, 1)
    time.sleep(0.002)
    write(two, 1, 1, 1)
    assert mirror(two, remote).close(20)
    before = bucket_server.snapshot()
    assert not events.flush(20)
    with pytest.raises(ConflictError, match="holds the events of another process"):
        events.poll()
    assert bucket_server.snapshot() == before


def test_many_lines_go_in_segments_of_a_few_megabytes(
    tmp_path: Path,
    remote: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    run_dir = RunDir(tmp_path / "one")
    with EventWriter(run_dir.events_file, 1) as writer:
        for step in range(9):
            writer.write("warning", step, message="x" * (1 << 20))
    assert mirror(run_dir, remote).close(20)
    assert list(sent(bucket_server).values()) == [3, 3, 3]
    assert restored(tmp_path / "two", remote) == run_dir.events_file.read_bytes()


class TestManySegments:
    """As a day of training leaves them; four are many here."""

    @pytest.fixture(autouse=True)
    def few_are_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("packtrain.run.event_mirror.MANY", 4)

    def two_attempts(self, run_dir: RunDir, remote: GcsStorage) -> None:
        for attempt, steps in ((1, range(1, 5)), (2, range(5, 9))):
            events = mirror(run_dir, remote)
            for step in steps:
                write(run_dir, attempt, step, step)
                assert events.flush(20)
            assert events.close(20)

    def test_are_put_together_when_the_next_attempt_begins(
        self,
        tmp_path: Path,
        remote: GcsStorage,
        bucket_server: BucketServer,  # noqa: F811
    ) -> None:
        run_dir = RunDir(tmp_path / "one")
        self.two_attempts(run_dir, remote)
        assert len(sent(bucket_server)) == 8
        write(run_dir, 3, 9, 9)
        assert mirror(run_dir, remote).close(20)
        assert sent(bucket_server) == {
            "000001-0000000000.jsonl": 5,
            "000002-0000000000.jsonl": 5,
            "000003-0000000000.jsonl": 2,
        }
        assert restored(tmp_path / "two", remote) == run_dir.events_file.read_bytes()
        # Who has it all reads none of it again.
        requests = len(bucket_server.log)
        assert restored(tmp_path / "two", remote) == run_dir.events_file.read_bytes()
        assert len(bucket_server.log) == requests + 1

    def test_a_cut_in_the_middle_loses_and_doubles_nothing(
        self,
        tmp_path: Path,
        remote: GcsStorage,
        bucket_server: BucketServer,  # noqa: F811
    ) -> None:
        run_dir = RunDir(tmp_path / "one")
        self.two_attempts(run_dir, remote)
        whole = run_dir.events_file.read_bytes()
        for skip in range(9):
            bucket_server.faults.add("*", ".", Fault(status=503), skip=skip, times=None)
            with suppress(UnavailableError):
                compact(remote)
            bucket_server.faults.clear()
            assert restored(tmp_path / f"after {skip}", remote) == whole
        compact(remote)
        assert restored(tmp_path / "end", remote) == whole

    def test_a_reader_that_finds_some_gone_looks_again(
        self,
        tmp_path: Path,
        remote: GcsStorage,
        bucket_server: BucketServer,  # noqa: F811
    ) -> None:
        run_dir = RunDir(tmp_path / "one")
        self.two_attempts(run_dir, remote)
        once = threading.Lock()

        def put_together() -> None:
            if once.acquire(blocking=False):
                with closing(connect(bucket_server)) as other:
                    compact(other)

        # Between the listing and the first read.
        bucket_server.faults.add("GET", "events%2F", Fault(before=put_together))
        assert restored(tmp_path / "two", remote) == run_dir.events_file.read_bytes()
        assert len(sent(bucket_server)) == 2
