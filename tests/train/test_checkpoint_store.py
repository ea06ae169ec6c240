"""The store on a disk: beside training, the newest by attempt, the last good never lost."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from checkpoints import make_store, no_warning, snapshot, step_of, until

from packtrain.errors import ConflictError, StorageError
from packtrain.train.checkpoint import CheckpointStore
from packtrain.train.checkpoint_files import write


def wait_for(gate: threading.Event) -> None:
    assert gate.wait(20)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        assert store.save(snapshot(step), wait=True)


def test_training_goes_on_while_it_is_written(tmp_path: Path) -> None:
    gate = threading.Event()
    store = make_store(tmp_path, sync_events=lambda: wait_for(gate))
    assert store.ready and store.last_seconds is None and store.fits_grace(0.0)
    assert store.save(snapshot(1), wait=False)
    assert not store.save(snapshot(2), wait=False), "the loop asks again at the next step"
    assert store.poll() == []
    assert make_store(tmp_path / "x").newest() is None and not (tmp_path / "step-1").exists()
    gate.set()
    until(lambda: store.ready)
    (saved,) = store.poll()
    assert (saved.step, saved.mirrored, saved.bytes > 768) == (1, False, True)
    assert store.poll() == []
    assert store.save(snapshot(2), wait=False)
    store.close(wait_for_mirror=True, timeout=5)
    assert [saved.step for saved in store.poll()] == [2]
    assert step_of(make_store(tmp_path).newest()) == 2


def test_the_time_that_training_lost_is_measured(tmp_path: Path) -> None:
    store = make_store(tmp_path, sync_events=lambda: time.sleep(0.2))
    store.save(snapshot(1), wait=False)
    assert store.seconds_blocked < 0.1
    until(lambda: store.ready)
    save(store, 2)
    assert store.seconds_blocked >= 0.2
    assert store.last_seconds is not None and store.last_seconds >= 0.2
    assert not store.fits_grace(0.2)
    assert store.fits_grace(60)


def test_events_are_on_the_disk_before_a_checkpoint_counts(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    store = make_store(
        tmp_path, sync_events=lambda: seen.append([p.name for p in tmp_path.rglob("commit.json")])
    )
    save(store, 1)
    assert seen == [[]]
    assert (tmp_path / "step-1/commit.json").exists()


def test_a_wait_comes_after_the_one_that_is_being_written(tmp_path: Path) -> None:
    store = make_store(tmp_path, sync_events=lambda: time.sleep(0.05))
    store.save(snapshot(1), wait=False)
    save(store, 2)
    assert [saved.step for saved in store.poll()] == [1, 2]
    assert names(tmp_path) == ["step-1", "step-2"]


def test_a_later_attempt_supersedes_steps_that_were_further(tmp_path: Path) -> None:
    save(make_store(tmp_path, keep=9), 10, 20)
    save(make_store(tmp_path, keep=9, attempt=2), 12)
    assert step_of(make_store(tmp_path).newest()) == 12
    save(make_store(tmp_path, keep=9, attempt=2, token=lambda: 7), 11)
    assert step_of(make_store(tmp_path).newest()) == 11, "of two that took themselves for the same attempt"
    save(make_store(tmp_path, keep=2, attempt=3), 5)
    assert names(tmp_path) == ["step-11", "step-5"]


def test_a_step_is_written_anew_by_a_later_attempt(tmp_path: Path) -> None:
    save(make_store(tmp_path), 3)
    save(make_store(tmp_path, attempt=2, token=lambda: 9), 3)
    commit = json.loads((tmp_path / "step-3/commit.json").read_text())
    assert (commit["attempt"], commit["token"], commit["step"]) == (2, 9, 3)
    assert names(tmp_path) == ["step-3"]


def test_a_damaged_one_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    save(make_store(tmp_path), 10, 20)
    (tmp_path / "step-20/adapter.safetensors").write_bytes(b"torn")
    warnings: list[str] = []
    store = make_store(tmp_path, attempt=2, warn=warnings.append)
    assert step_of(store.newest()) == 10
    assert warnings == ["checkpoint step-20 is passed over: adapter.safetensors is not what was written"]
    save(store, 12)
    assert names(tmp_path) == ["step-10", "step-12"]


def test_a_commit_of_another_folder_or_form_does_not_count(tmp_path: Path) -> None:
    save(make_store(tmp_path, keep=9), 1, 2, 3, 4)
    (tmp_path / "step-2").rename(tmp_path / "step-9")
    (tmp_path / "step-3/commit.json").write_text('{"version": 99}')
    (tmp_path / "step-4/commit.json").write_text("[]")
    (tmp_path / "step-x").mkdir()
    warnings: list[str] = []
    assert step_of(make_store(tmp_path, warn=warnings.append).newest()) == 1
    assert {line.partition(":")[0] for line in warnings} == {
        f"checkpoint step-{step} is passed over" for step in (3, 4, 9)
    }


@pytest.mark.parametrize("torn", ["commit.json", "optimizer.safetensors"])
def test_what_a_killed_save_leaves_is_swept(tmp_path: Path, torn: str) -> None:
    save(make_store(tmp_path), 1)
    (tmp_path / "step-1" / torn).write_bytes(b"torn")
    (tmp_path / "step-1").rename(tmp_path / ".step-1.1.tmp")
    assert make_store(tmp_path).newest() is None
    assert names(tmp_path) == []


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_a_step_is_written_again_loses_neither(tmp_path: Path, renames: int) -> None:
    """The only checkpoint is replaced by one of the same step, and the process ends between the renames."""
    save(make_store(tmp_path, keep=1), 7)
    child = os.fork()
    if child == 0:
        left, rename = [renames], Path.rename

        def cut(path: Path, target: Path) -> Path:
            left[0] -= 1
            if left[0] < 0:
                os._exit(0)
            return rename(path, target)

        Path.rename = cut  # type: ignore[method-assign, assignment]
        write(tmp_path, snapshot(7), attempt=2, token=lambda: 1, save=5)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert step_of(make_store(tmp_path, attempt=3).newest()) == 7
    commit = json.loads((tmp_path / "step-7/commit.json").read_text())
    assert commit["attempt"] == (1 if renames == 0 else 2)
    assert names(tmp_path) == ["step-7"]


def test_a_failed_save_is_a_warning_once_and_once_more_when_it_is_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.write_text("in the way")
    warnings: list[str] = []
    store = make_store(folder, warn=warnings.append)
    for step in (1, 2, 3):
        assert store.save(snapshot(step), wait=False)
        until(lambda: store.ready)
        assert store.poll() == []
    assert len(warnings) == 1
    assert warnings[0].startswith("saving failed: cannot write the checkpoint ")
    assert warnings[0].endswith("; training goes on")
    with pytest.raises(StorageError, match="step-4"):
        store.save(snapshot(4), wait=True)
    folder.unlink()
    store.save(snapshot(5), wait=False)
    store.close(wait_for_mirror=False, timeout=0)
    assert [saved.step for saved in store.poll()] == [5]
    assert len(warnings) == 2 and warnings[1].startswith("checkpoints are written again, after ")


def test_a_lost_lock_commits_nothing_and_is_raised(tmp_path: Path) -> None:
    def lost() -> int:
        raise ConflictError("another process has taken it over")

    store = make_store(tmp_path, token=lost)
    store.save(snapshot(1), wait=False)
    until(lambda: store.ready)
    with pytest.raises(ConflictError, match="taken it over"):
        store.poll()
    with pytest.raises(ConflictError):
        store.save(snapshot(2), wait=True)
    assert names(tmp_path) == []
    assert store.close(wait_for_mirror=True, timeout=1)


def test_a_bug_in_the_thread_is_not_swallowed(tmp_path: Path) -> None:
    def bug() -> None:
        raise KeyError("bug")

    store = make_store(tmp_path, sync_events=bug, warn=no_warning)
    store.save(snapshot(1), wait=False)
    until(lambda: store.ready)
    with pytest.raises(KeyError):
        store.poll()
