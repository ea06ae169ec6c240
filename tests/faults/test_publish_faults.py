"""Publishing is cut at every point, and raced: afterwards the same command ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from standins import adapter
from standins.adapter import Adapter
from standins.bucket import BucketServer, Fault, bucket_server  # noqa: F401

from packtrain.artifacts.publish import CLAIM
from packtrain.errors import ConflictError, PacktrainError
from packtrain.storage.base import Storage
from packtrain.storage.gcs import GcsStorage
from packtrain.storage.local import GUARD, LocalStorage
from packtrain.storage.retry import RetryPolicy

QUANTUM = 256 * 1024
QUICK = RetryPolicy(attempts=3, deadline=5.0, first_delay=0.001, max_delay=0.01)


def connect(server: BucketServer) -> GcsStorage:
    """The weights go in four chunks, so that a cut can be in the middle of them."""
    return GcsStorage(server.uri("final_model"), retries=QUICK, single_request=QUANTUM, chunk=QUANTUM)


@pytest.fixture
def first(tmp_path: Path) -> Adapter:
    return adapter.make(tmp_path / "first", "RUN1", size=3 * QUANTUM + 1)


def published(server: BucketServer) -> dict[str, bytes]:
    found = {name.removeprefix("final_model/"): data for name, data in server.snapshot().items()}
    found.pop(CLAIM, None)
    return found


def requests_of_a_whole_run(first: Adapter, server: BucketServer) -> int:
    storage = connect(server)
    first.publish(storage)
    storage.close()
    count = len(server.log)
    server.log.clear()
    server.buckets[server.bucket].clear()
    return count


@pytest.mark.parametrize("applied", [False, True])
def test_cut_at_every_request(first: Adapter, bucket_server: BucketServer, applied: bool) -> None:  # noqa: F811
    """The bucket goes away for good before, or just after, the n-th request: for each n."""
    total = requests_of_a_whole_run(first, bucket_server)
    assert total > 20
    storage = connect(bucket_server)
    for number in range(total):
        if applied:
            bucket_server.faults.add("*", ".", Fault(cut_answer=-1), skip=number)
            bucket_server.faults.add("*", ".", Fault(status=503), times=None, skip=number)
        else:
            bucket_server.faults.add("*", ".", Fault(status=503), times=None, skip=number)
        with pytest.raises(PacktrainError):
            first.publish(storage)
        bucket_server.faults.clear()
        finished = "receipt.json" in published(bucket_server)
        assert not finished or published(bucket_server) == first.contents
        first.publish(storage)
        assert published(bucket_server) == first.contents, number
        bucket_server.buckets[bucket_server.bucket].clear()
    storage.close()


def start(folder: Path, destination: str, run_id: str = "RUN1") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "standins.adapter", str(folder), destination, run_id],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 6, 9, 13, 17, 18])
def test_killed_at_the_nth_request(
    first: Adapter,
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
    number: int,
) -> None:
    process: list[subprocess.Popen[bytes]] = []
    began = threading.Event()

    def kill() -> None:
        began.wait()
        process[0].send_signal(signal.SIGKILL)
        process[0].wait()

    when = Fault(after=kill) if number % 2 else Fault(before=kill)
    bucket_server.faults.add("*", ".", when, skip=number)
    process.append(start(tmp_path / "first", bucket_server.uri("final_model")))
    began.set()
    assert process[0].wait(60) == -signal.SIGKILL
    assert bucket_server.faults.hits == 1
    found = published(bucket_server)
    assert "receipt.json" not in found or found == first.contents
    assert start(tmp_path / "first", bucket_server.uri("final_model")).wait(60) == 0
    assert published(bucket_server) == first.contents


@pytest.mark.slow
def test_killed_while_it_writes_to_a_folder(tmp_path: Path) -> None:
    """Killed as soon as a certain file shows up: the claim, a file, the last file."""
    first = adapter.make(tmp_path / "first", "RUN1", size=20 << 20)
    for number, seen in enumerate((CLAIM, "README.md", ".packtrain-tmp-", "tokenizer.json")):
        target = tmp_path / f"out-{number}"
        process = start(tmp_path / "first", str(target))
        while process.poll() is None and not list(target.glob(f"{seen}*")):
            pass
        process.kill()
        process.wait()
        whole = (target / "receipt.json").exists()
        assert not whole or _visible(target) == first.contents
        assert start(tmp_path / "first", str(target)).wait(60) == 0
        assert _visible(target) == first.contents
        # Killed between the receipt and the guard's end: then nobody writes again, and it stays.
        left = {GUARD} if whole else set()
        assert {path.name for path in target.iterdir()} - left == first.contents.keys() | {CLAIM}


def _visible(folder: Path) -> dict[str, bytes]:
    storage = LocalStorage(folder)
    return {info.name: storage.read(info.name) for info in storage.list() if info.name != CLAIM}


def race(adapters: list[Adapter], connect: Callable[[], Storage]) -> list[str]:
    """Publish all at once; who won, and ConflictErrors of the others."""
    won: list[str] = []
    barrier = threading.Barrier(len(adapters))

    def run(made: Adapter) -> None:
        storage = connect()
        barrier.wait()
        try:
            made.publish(storage)
            won.append(made.run_id)
        except ConflictError:
            pass

    threads = [threading.Thread(target=run, args=(made,)) for made in adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_two_runs_at_once(
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
    place: str,
    attempt: int,
) -> None:
    adapters = [adapter.make(tmp_path / f"run{n}", f"RUN{n}") for n in range(4)]
    opened: list[GcsStorage] = []

    def in_bucket() -> Storage:
        opened.append(connect(bucket_server))
        return opened[-1]

    won = race(adapters, in_bucket if place == "bucket" else lambda: LocalStorage(tmp_path / "out"))
    for storage in opened:
        storage.close()
    assert len(won) == 1
    winner = next(made for made in adapters if made.run_id == won[0])
    found = published(bucket_server) if place == "bucket" else _visible(tmp_path / "out")
    assert found == winner.contents


def test_two_processes_of_one_run_mix_nothing(first: Adapter, bucket_server: BucketServer) -> None:  # noqa: F811
    """The lock of a run forbids it; should it happen all the same, the end is whole."""
    opened: list[GcsStorage] = []

    def in_bucket() -> Storage:
        opened.append(connect(bucket_server))
        return opened[-1]

    race([first, first], in_bucket)
    first.publish(opened[0])
    for storage in opened:
        storage.close()
    assert published(bucket_server) == first.contents


def test_a_conflict_is_one_sentence_with_code_73(tmp_path: Path) -> None:
    adapter.make(tmp_path / "first", "RUN1").publish(LocalStorage(tmp_path / "out"))
    second = adapter.make(tmp_path / "second", "RUN2")
    with pytest.raises(ConflictError) as caught:
        second.publish(LocalStorage(tmp_path / "out"))
    assert caught.value.exit_code == 73
    assert str(caught.value) == f"{tmp_path / 'out'}: holds the finished adapter of run RUN1"
