"""The bucket fails while a run saves: away, slow, damaged, cut at any request, or written by another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import (
    PLACE,
    QUANTUM,
    QUICK,
    connect,
    in_bucket,
    make_store,
    no_warning,
    snapshot,
    step_of,
    until,
)
from standins.bucket import BucketServer, Fault

from packtrain.errors import AccessError, ConflictError, UnavailableError
from packtrain.run.event_mirror import EventMirror
from packtrain.rundir import EventWriter, history
from packtrain.storage.gcs import GcsStorage
from packtrain.train.checkpoint import CheckpointStore

DOWN = Fault(status=503)


@pytest.fixture
def remote(bucket_server: BucketServer) -> Iterator[GcsStorage]:
    storage = connect(bucket_server)
    yield storage
    storage.close()


def saved(store: CheckpointStore, step: int, size: int = 64) -> None:
    """In the bucket too."""
    assert store.save(snapshot(step, size), wait=True)
    until(lambda: store._to_mirror is None)


def more_hits(server: BucketServer) -> None:
    before = server.faults.hits
    until(lambda: server.faults.hits > before)


def more_requests(server: BucketServer, count: int) -> None:
    until(lambda: len(server.log) > count, 60)


def found(folder: Path, remote: GcsStorage, warnings: list[str] | None = None) -> int | None:
    """The step that a machine with nothing goes on from."""
    store = make_store(folder, remote=remote, warn=no_warning if warnings is None else warnings.append)
    path = store.newest()
    store.close(wait_for_mirror=False, timeout=0)
    return None if path is None else step_of(path)


class TestAway:
    def test_training_goes_on_and_says_so_once_and_once_when_it_is_back(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        warnings: list[str] = []
        store = make_store(tmp_path / "one", remote=remote, warn=warnings.append)
        saved(store, 1)
        bucket_server.faults.add("*", ".", DOWN, times=None)
        for step in range(2, 7):
            assert store.save(snapshot(step), wait=False)
            until(lambda: store.ready)
            more_hits(bucket_server)
            assert all(not one.mirrored or one.step == 1 for one in store.poll())
        assert store.seconds_blocked < 1.0
        assert len(warnings) == 1
        assert warnings[0].startswith(f"checkpoints are not copied to {remote.uri}: gs://")
        assert warnings[0].endswith("; training goes on, and it is tried again")
        assert in_bucket(bucket_server) == ["step-1"], "the last good one stays"
        bucket_server.faults.clear()
        assert store.close(wait_for_mirror=True, timeout=20)
        assert [one.step for one in store.poll() if one.mirrored] == [6]
        assert len(warnings) == 2
        assert warnings[1].startswith(f"checkpoints are copied to {remote.uri} again, after ")
        assert in_bucket(bucket_server) == ["step-1", "step-6"]
        assert found(tmp_path / "two", remote) == 6

    def test_no_server_at_all(
        self, bucket_server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Relay(bucket_server) as relay:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", relay.url)
            storage = GcsStorage(bucket_server.uri(PLACE), retries=QUICK)
            warnings: list[str] = []
            store = make_store(tmp_path / "one", remote=storage, warn=warnings.append)
            assert store.save(snapshot(1), wait=True)
            until(lambda: store.poll() == [] and bool(warnings))
            assert "no connection, or it was cut" in warnings[0]
            assert not store.close(wait_for_mirror=False, timeout=0)
            # A try of it that is under way would find the bucket there, too: two writers.
            assert store._worker is not None and store._worker.stop(20)
            later = make_store(tmp_path / "one", remote=storage, attempt=2, warn=warnings.append)
            with pytest.raises(UnavailableError):
                later.newest()
            relay.open()
            assert step_of(later.newest()) == 1
            assert later.close(wait_for_mirror=True, timeout=20)
            assert in_bucket(bucket_server) == ["step-1"]
            storage.close()

    def test_the_end_waits_for_it_only_so_long(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        warnings: list[str] = []
        store = make_store(tmp_path, remote=remote, warn=warnings.append)
        events = EventMirror(tmp_path / "events.jsonl", remote, retry_delay=0.02)
        with EventWriter(tmp_path / "events.jsonl", 1) as writer:
            writer.write("start", 0)
        bucket_server.faults.add("*", ".", DOWN, times=None)
        assert store.save(snapshot(1), wait=True)
        started = time.monotonic()
        assert not store.close(wait_for_mirror=True, timeout=0.3)
        assert not events.close(0.3)
        assert 0.6 <= time.monotonic() - started < 3.0
        assert [line.partition(" are not copied")[0] for line in warnings + events.poll()] == [
            "checkpoints",
            "events",
        ]

    def test_a_right_that_was_taken_away_ends_nothing_and_may_come_back(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        warnings: list[str] = []
        store = make_store(tmp_path / "one", remote=remote, warn=warnings.append)
        bucket_server.faults.add("POST", "upload", Fault(status=403), times=5)
        assert store.save(snapshot(1), wait=True)
        assert store.close(wait_for_mirror=True, timeout=20)
        assert "is refused" in warnings[0] and len(warnings) == 2
        bucket_server.faults.add("GET", ".", Fault(status=403), times=None)
        with pytest.raises(AccessError):
            found(tmp_path / "two", remote)

    def test_no_checkpoint_is_ahead_of_its_events(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        events = EventMirror(tmp_path / "events.jsonl", remote, every=3600, retry_delay=0.02)
        warnings: list[str] = []
        store = make_store(tmp_path, remote=remote, mirror_events=events.push, warn=warnings.append)
        bucket_server.faults.add("POST", "upload.*", Fault(status=503), times=6, skip=3)
        with EventWriter(tmp_path / "events.jsonl", 1) as writer:
            writer.write("step", 1, loss=1.0)
            assert store.save(snapshot(1), wait=True)
        committed = False
        while not committed:
            committed = bool(in_bucket(bucket_server))
            assert not committed or bucket_server.names(f"{PLACE}/events")
            time.sleep(0.001)
        assert store.close(wait_for_mirror=True, timeout=20)
        assert events.close(20)


class Relay:
    """A port that refuses connections until it is opened; then it passes them on to ``server``."""

    def __init__(self, server: BucketServer) -> None:
        self._target = server.url.rpartition(":")[2]
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._pairs: list[socket.socket] = []

    def open(self) -> None:
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", int(self._target)))
            self._pairs += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        for one in self._pairs:
            one.close()


def test_a_slow_bucket_delays_no_step(
    bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
) -> None:
    delay = 0.4  # longer than a busy machine keeps a thread waiting
    bucket_server.faults.add("*", ".", Fault(delay=delay), times=None)
    store = make_store(tmp_path / "one", remote=remote)
    longest = 0.0
    for step in range(1, 5):
        until(lambda: store.ready)
        started = time.monotonic()
        assert store.save(snapshot(step), wait=False)
        store.poll()
        longest = max(longest, time.monotonic() - started)
    assert longest < delay
    assert store.close(wait_for_mirror=True, timeout=20)
    assert store.last_seconds is not None and store.last_seconds > 4 * delay, "a copy counts for the grace"
    bucket_server.faults.clear()
    assert found(tmp_path / "two", remote) == 4


class TestDamaged:
    def damage(self, server: BucketServer, name: str) -> None:
        stored = server.buckets[server.bucket][f"{PLACE}/checkpoints/{name}"]
        stored.data = stored.data[:-1] + bytes([stored.data[-1] ^ 1])

    @pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.safetensors", "state.json"])
    @pytest.mark.parametrize("how", ["changed", "missing", "on the way"])
    def test_the_one_before_is_used(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path, name: str, how: str
    ) -> None:
        store = make_store(tmp_path / "one", remote=remote)
        saved(store, 1)
        saved(store, 2)
        assert store.close(wait_for_mirror=True, timeout=20)
        if how == "changed":
            self.damage(bucket_server, f"step-2/{name}")
        elif how == "missing":
            del bucket_server.buckets[bucket_server.bucket][f"{PLACE}/checkpoints/step-2/{name}"]
        else:
            pattern = f"step-2.*{name}.*alt=media"
            bucket_server.faults.add("GET", pattern, Fault(damage_answer=True), times=None)
        warnings: list[str] = []
        folder = tmp_path / "two"
        assert found(folder, remote, warnings) == 1
        assert len(warnings) == 1
        assert warnings[0].startswith(f"checkpoint step-2 is passed over: in {remote.uri} ")
        assert [path.name for path in folder.iterdir()] == ["step-1"]

    def test_a_good_one_is_not_removed_for_a_damaged_one(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        store = make_store(tmp_path / "one", remote=remote)
        saved(store, 1)
        saved(store, 2)
        assert store.close(wait_for_mirror=True, timeout=20)
        self.damage(bucket_server, "step-2/adapter.safetensors")
        later = make_store(tmp_path / "two", remote=remote, attempt=2, warn=lambda message: None)
        assert step_of(later.newest()) == 1
        saved(later, 3)
        assert later.close(wait_for_mirror=True, timeout=20)
        assert in_bucket(bucket_server) == ["step-1", "step-3"]

    def test_a_commit_that_cannot_be_read_does_not_count(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        store = make_store(tmp_path / "one", remote=remote)
        saved(store, 1)
        assert store.close(wait_for_mirror=True, timeout=20)
        bucket_server.put(f"{PLACE}/checkpoints/step-7/commit.json", b"torn")
        assert found(tmp_path / "two", remote) == 1

    def test_what_is_damaged_while_it_is_sent_is_sent_again(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        bucket_server.faults.add("POST", "upload", Fault(damage_stored=True))
        store = make_store(tmp_path / "one", remote=remote)
        saved(store, 1)
        assert store.close(wait_for_mirror=True, timeout=20)
        assert found(tmp_path / "two", remote) == 1


def tried(store: CheckpointStore) -> bool:
    """Wait for the first try to copy; whether it did well."""
    until(lambda: store._to_mirror is None or bool(store._bucket._said))
    return store._to_mirror is None


@pytest.mark.slow
@pytest.mark.parametrize("applied", [False, True])
def test_cut_at_every_request(
    bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path, applied: bool
) -> None:
    """The bucket goes away before, or just after, the n-th request of a copy that replaces an older
    attempt's and removes old ones; a new machine then finds something whole, and the end is the same."""
    objects = bucket_server.buckets[bucket_server.bucket]
    store = make_store(tmp_path / "old", remote=remote, keep=2)
    saved(store, 1)
    saved(store, 2, size=QUANTUM)
    assert store.close(wait_for_mirror=True, timeout=20)
    before = dict(objects)
    for number in range(60):
        objects.clear()
        objects.update(before)
        warnings: list[str] = []
        store = make_store(
            tmp_path / f"{number}",
            remote=remote,
            attempt=2,
            token=lambda: 2,
            warn=warnings.append,
            retry_delay=60,  # not while the bucket is looked at: the close asks for it
        )
        hits = bucket_server.faults.hits
        if applied:
            bucket_server.faults.add("*", ".", Fault(cut_answer=-1), skip=number)
        bucket_server.faults.add("*", ".", DOWN, times=None, skip=number)
        assert store.save(snapshot(2, size=QUANTUM + 1), wait=True)
        copied = tried(store)
        if copied:
            assert store.close(wait_for_mirror=True, timeout=20)  # until old ones are removed
        cut = bucket_server.faults.hits > hits
        bucket_server.faults.clear()
        bucket = connect(bucket_server)
        assert found(tmp_path / f"{number}-found", bucket) in {1, 2}
        bucket.close()
        if not copied:
            assert store.close(wait_for_mirror=True, timeout=20), warnings
        assert "step-2" in in_bucket(bucket_server)
        assert found(tmp_path / f"{number}-end", remote) == 2
        if not cut:
            break
    assert not cut and number > 10


class TestTwoWriters:
    def test_the_one_that_was_superseded_copies_nothing_more(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path
    ) -> None:
        old = make_store(tmp_path / "old", remote=remote, token=lambda: 3)
        saved(old, 10)
        new = make_store(tmp_path / "new", remote=remote, attempt=1, token=lambda: 4)
        assert step_of(new.newest()) == 10
        saved(new, 11)
        before = bucket_server.snapshot()
        assert old.save(snapshot(30), wait=True)
        with pytest.raises(ConflictError, match="attempt 1 has saved step-11 meanwhile"):
            until(lambda: old.poll() and None)
        assert not old.close(wait_for_mirror=True, timeout=5)
        assert new.close(wait_for_mirror=True, timeout=20)
        assert bucket_server.snapshot() == before
        assert found(tmp_path / "third", remote) == 11

    @pytest.mark.parametrize("upload", range(4))
    def test_in_the_middle_of_a_copy(
        self, bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path, upload: int
    ) -> None:
        """The old writer sleeps in one of its writes, and wakes when the new one has saved the same step."""
        second = connect(bucket_server)
        new = make_store(tmp_path / "new", remote=second, attempt=2, token=lambda: 4)
        bucket_server.faults.add("POST", "upload", Fault(before=lambda: saved(new, 5)), skip=upload)
        old = make_store(tmp_path / "old", remote=remote, token=lambda: 3)
        assert old.save(snapshot(5), wait=True)
        with pytest.raises(ConflictError):
            until(lambda: old.poll() and old._to_mirror is None)
        assert not old.close(wait_for_mirror=True, timeout=5)
        assert new.close(wait_for_mirror=True, timeout=20)
        third = make_store(tmp_path / "third", remote=remote)
        path = third.newest()
        assert step_of(path) == 5 and path is not None
        assert b'"attempt": 2' in (path / "commit.json").read_bytes()
        third.close(wait_for_mirror=False, timeout=0)
        second.close()


SAVE = """
import sys
import time
from pathlib import Path
from checkpoints import connect, make_store, snapshot
from packtrain.run.event_mirror import EventMirror
from packtrain.rundir import EventWriter
from packtrain.storage import open_storage
folder, uri = Path(sys.argv[1]), sys.argv[2]
remote = open_storage(uri)
events = EventWriter(folder / "events.jsonl", 1)
mirror = EventMirror(folder / "events.jsonl", remote, every=0.01)
store = make_store(folder, remote=remote, sync_events=events.sync, mirror_events=mirror.push)
print("ready", flush=True)
for step in range(1, 1_000_000):
    time.sleep(0.001)  # it must not come to its end first
    events.write("step", step, loss=1.0)
    if store.ready:
        store.save(snapshot(step, 4096), wait=False)
    store.poll()
"""


@pytest.mark.slow
def test_killed_while_it_copies(bucket_server: BucketServer, remote: GcsStorage, tmp_path: Path) -> None:
    """What is in the bucket is whole, and has all events up to the checkpoint."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent / 'src'}"}
    for number, requests in enumerate((40, 97)):
        bucket_server.buckets[bucket_server.bucket].clear()
        bucket_server.log.clear()
        folder = tmp_path / f"{number}"
        folder.mkdir()
        command = [sys.executable, "-c", SAVE, str(folder), bucket_server.uri(PLACE)]
        process = subprocess.Popen(command, env=environment)
        more_requests(bucket_server, requests)
        process.send_signal(signal.SIGKILL)
        process.wait()
        step = found(tmp_path / f"{number}-found", remote)
        assert step is not None
        mirrored = b"".join(bucket_server.snapshot(f"{PLACE}/events/").values())
        (tmp_path / "joined.jsonl").write_bytes(mirrored)
        steps = [event.step for event in history(tmp_path / "joined.jsonl") if event.kind == "step"]
        assert steps[:step] == list(range(1, step + 1))
