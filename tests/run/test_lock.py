"""The lock: one writer, takeovers, heartbeats, by the server's clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from standins.bucket import BucketServer, Fault, bucket_server  # noqa: F401

from packtrain.errors import ConflictError, PreemptedError, UnavailableError
from packtrain.run.lock import Lock, Owner, process_start
from packtrain.storage.gcs import GcsStorage
from packtrain.storage.local import LocalStorage
from packtrain.storage.retry import RetryPolicy

ONE = Owner("job-1", "host-1")
TWO = Owner("job-2", "host-2")


@pytest.fixture
def storage(bucket_server: BucketServer) -> Iterator[GcsStorage]:  # noqa: F811
    quick = RetryPolicy(attempts=2, deadline=5.0, first_delay=0.001, max_delay=0.01)
    opened = GcsStorage(bucket_server.uri("runs/x"), retries=quick)
    yield opened
    opened.close()


def test_one_writer(storage: GcsStorage) -> None:
    first = Lock(storage, owner=ONE)
    first.acquire()
    with pytest.raises(ConflictError, match=r"job-1 \(process 0 on host-1, since 2.*\) writes") as caught:
        Lock(storage, owner=TWO).acquire()
    assert caught.value.exit_code == 73
    first.check()
    first.release()
    assert storage.stat("lock") is None
    Lock(storage, owner=TWO).acquire()


def test_another_owner_only_after_60_s_by_the_servers_clock(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    first, second = Lock(storage, owner=ONE), Lock(storage, owner=TWO)
    first.acquire()
    bucket_server.advance(55)
    with pytest.raises(ConflictError, match=r"last sign 5[5-9] s ago"):
        second.acquire()
    first.heartbeat()
    bucket_server.advance(59)
    with pytest.raises(ConflictError):
        second.acquire()
    bucket_server.advance(5)
    second.acquire()
    assert second.token > first.generation
    for _ in range(2):
        with pytest.raises(ConflictError, match=r"job-2 .* has taken it over"):
            first.heartbeat()
    with pytest.raises(ConflictError):
        first.check()
    first.release()
    second.check()
    second.heartbeat()
    assert json.loads(storage.read("lock"))["owner"]["id"] == "job-2"


def test_a_clock_of_ours_that_is_wrong_does_not_matter(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    bucket_server.advance(-1_000_000)
    Lock(storage, owner=ONE).acquire()
    with pytest.raises(ConflictError):
        Lock(storage, owner=TWO).acquire()


def test_the_same_owner_takes_over_at_once(storage: GcsStorage) -> None:
    """A Job's replacement pod: the pod before it may even be alive still, and then notices."""
    before, after = Lock(storage, owner=ONE), Lock(storage, owner=replace(ONE, host="host-9"))
    before.acquire()
    after.acquire()
    assert after.token > before.token
    with pytest.raises(ConflictError):
        before.heartbeat()


def test_tokens_grow_and_heartbeats_keep_them(storage: GcsStorage) -> None:
    lock, tokens = Lock(storage, owner=ONE), []
    for _ in range(3):
        lock.acquire()
        tokens.append(lock.token)
        lock.heartbeat()
        assert lock.generation > lock.token == tokens[-1]
        lock.release()
    assert tokens == sorted(set(tokens))


def test_a_lost_answer_does_not_lose_the_lock(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    lock = Lock(storage, owner=ONE)
    for call in (lock.acquire, lock.heartbeat, lock.heartbeat):
        bucket_server.faults.add("POST", "upload", Fault(cut_answer=-1))
        call()
    lock.check()


def test_a_bucket_that_is_away_is_not_a_lost_lock(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    lock = Lock(storage, owner=ONE, stale_after=0.2, every=0.02)
    with lock:
        bucket_server.faults.add("*", ".", Fault(status=503), times=None)
        time.sleep(0.4)
        with pytest.raises(UnavailableError):
            lock.check()
        bucket_server.faults.clear()
        lock.check()


def test_a_bucket_that_is_away_at_the_end_changes_no_outcome(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    with pytest.raises(PreemptedError), Lock(storage, owner=ONE):
        bucket_server.faults.add("*", ".", Fault(status=503), times=None)
        raise PreemptedError("stopped")
    bucket_server.faults.clear()
    Lock(storage, owner=ONE).acquire()


def test_the_thread_keeps_it(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with Lock(storage, owner=ONE, stale_after=0.5, every=0.05) as lock:
        time.sleep(0.7)
        assert lock.generation > lock.token
        with pytest.raises(ConflictError):
            Lock(storage, owner=TWO, stale_after=0.5).acquire()
    assert storage.list() == []


def test_the_thread_ends_where_the_lock_is_lost(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with Lock(storage, owner=ONE, every=0.02) as lock:
        Lock(storage, owner=ONE).acquire()
        deadline = time.monotonic() + 5
        with pytest.raises(ConflictError):
            while time.monotonic() < deadline:
                lock.check()
                time.sleep(0.01)
    assert storage.stat("lock") is not None


def test_a_lock_that_nobody_can_read_is_given_up_after_its_time(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    storage.write("lock", b"\xff torn")
    with pytest.raises(ConflictError, match="another process"):
        Lock(storage, owner=TWO).acquire()
    bucket_server.advance(61)
    Lock(storage, owner=TWO).acquire()


def test_two_at_the_same_moment(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    other = Lock(storage, owner=ONE)
    bucket_server.faults.add("POST", "upload", Fault(before=other.acquire))
    with pytest.raises(ConflictError, match=r"job-1 .* took it at the same moment"):
        Lock(storage, owner=TWO).acquire()


HOLD = """
import sys, time
from pathlib import Path
from packtrain.run.lock import Lock
from packtrain.storage.local import LocalStorage
lock = Lock(LocalStorage(Path(sys.argv[1])))
lock.acquire()
print(lock.token, flush=True)
time.sleep(60)
"""


def test_a_process_that_was_killed_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACKTRAIN_OWNER", raising=False)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    token = int(holder.stdout.readline())
    storage = LocalStorage(tmp_path)
    with pytest.raises(ConflictError, match=f"process {holder.pid} on"):
        Lock(storage).acquire()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    lock = Lock(storage)
    lock.acquire()
    assert lock.token > token


def test_a_process_number_that_was_given_again() -> None:
    mine = Owner.this_process({})
    assert not mine.is_dead()
    assert replace(mine, started="1").is_dead()
    assert not replace(mine, started="1", machine="another machine").is_dead()
    assert not ONE.is_dead() and not ONE.is_alive()
    assert mine.is_alive()
    assert not replace(mine, started="1").is_alive()
    assert not replace(mine, machine="another machine").is_alive()


def test_one_that_runs_on_this_machine_keeps_its_lock_whatever_the_clock_says(
    storage: GcsStorage,
    bucket_server: BucketServer,  # noqa: F811
) -> None:
    """The clock jumps, the laptop was asleep: it has given no sign for long, and is there."""
    living = replace(Owner.this_process({}), id="living")
    Lock(storage, owner=living).acquire()
    bucket_server.advance(86_400)
    with pytest.raises(ConflictError, match=f"process {living.pid} on .*, and is running"):
        Lock(storage, owner=TWO).acquire()


def test_the_owner_comes_from_the_environment() -> None:
    assert Owner.this_process({"PACKTRAIN_OWNER": "uid-7"}).id == "uid-7"
    mine = Owner.this_process({})
    assert mine.id == f"{mine.host}:{os.getpid()}:{process_start(os.getpid())}"
    assert process_start(2**22 + 1) is None
