"""Who owns a run's folder."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from packtrain.config import RunConfig
from packtrain.errors import ConfigError, ConflictError, StorageError
from packtrain.run.begin import begin
from packtrain.run.lock import Lock, Owner
from packtrain.rundir import RunDir, RunIdentity
from packtrain.storage import open_storage


def config(name: str = "tiny", **train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"name": name, "model": {"source": "a/b"}, "data": {"train": "c/d"}, "train": train}
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "tiny")


def test_the_first_makes_the_identity_and_the_next_find_it(run_dir: RunDir) -> None:
    made = begin(run_dir, config(), new=False)
    assert (made.name, len(made.run_id)) == ("tiny", 26)
    assert run_dir.identity() == made
    assert begin(run_dir, config(), new=False) == made
    assert [path.name for path in run_dir.path.iterdir()] == ["run.json"]


def test_numbers_that_are_the_same_are_no_difference(run_dir: RunDir) -> None:
    made = begin(run_dir, config(epochs=2.0, learning_rate=1e-4), new=False)
    assert begin(run_dir, config(epochs=2.0, learning_rate=0.0001), new=False) == made


def test_every_difference_is_named(run_dir: RunDir) -> None:
    begin(run_dir, config(), new=False)
    with pytest.raises(ConfigError, match=r"train\.epochs: 1\.0 -> 2\.0; train\.seed: 42 -> 7") as caught:
        begin(run_dir, config(epochs=2.0, seed=7), new=False)
    assert "--new" in str(caught.value.hint)


def test_settings_of_another_version(run_dir: RunDir) -> None:
    made = begin(run_dir, config(), new=False)
    run_dir.identity_file.write_text(json.dumps(made.__dict__ | {"config_hash": "0" * 64}))
    with pytest.raises(ConfigError, match="settings of another version of packtrain"):
        begin(run_dir, config(), new=False)


def test_another_name(run_dir: RunDir) -> None:
    begin(run_dir, config(), new=False)
    with pytest.raises(ConflictError, match="holds the run tiny, not other"):
        begin(run_dir, config("other"), new=False)


@pytest.mark.parametrize("name", ["events.jsonl", "adapter", "receipt.json", "checkpoints"])
@pytest.mark.parametrize("new", [False, True])
def test_a_folder_of_somebody_else(run_dir: RunDir, name: str, new: bool) -> None:
    run_dir.path.mkdir(parents=True)
    (run_dir.path / name).write_text("mine")
    with pytest.raises(ConflictError, match=rf"has {name} but no run\.json"):
        begin(run_dir, config(), new=new)
    assert (run_dir.path / name).read_text() == "mine"


def test_a_folder_with_other_files_is_taken_as_it_is(run_dir: RunDir) -> None:
    run_dir.path.mkdir(parents=True)
    (run_dir.path / "notes.txt").write_text("mine")
    begin(run_dir, config(), new=False)
    assert (run_dir.path / "notes.txt").read_text() == "mine"


def test_new_moves_the_old_run_aside(run_dir: RunDir) -> None:
    old = begin(run_dir, config(), new=False)
    run_dir.events_file.write_text("events")
    moved: list[Path] = []
    made = begin(run_dir, config(seed=7), new=True, on_moved=moved.append)
    assert made.run_id != old.run_id
    [aside] = moved
    assert aside == run_dir.path.with_name(f"tiny-{old.run_id.lower()}")
    assert RunDir(aside).identity() == old
    assert RunDir(aside).events_file.read_text() == "events"
    assert not run_dir.events_file.exists()


def test_new_without_an_old_run_is_nothing_special(run_dir: RunDir) -> None:
    moved: list[Path] = []
    begin(run_dir, config(), new=True, on_moved=moved.append)
    assert moved == []


def test_new_leaves_a_run_that_is_being_written(run_dir: RunDir) -> None:
    old = begin(run_dir, config(), new=False)
    somebody = Owner("job-uid", "another-host", "another-machine", 1, "then")
    with Lock(open_storage(run_dir.path), owner=somebody), pytest.raises(ConflictError, match="job-uid"):
        begin(run_dir, config(), new=True)
    assert run_dir.identity() == old


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write to"):
        begin(RunDir(tmp_path / "file" / "run"), config(), new=False)


def _begin(path: Path) -> RunIdentity:
    return begin(RunDir(path), config(), new=False)


def test_of_two_that_begin_at_once_both_have_one_identity(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        for number in range(25):
            made = pool.map(_begin, [tmp_path / str(number)] * 4, chunksize=1)
            assert len({identity.run_id for identity in made}) == 1
