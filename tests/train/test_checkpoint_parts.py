"""A checkpoint that several writers make together: whole when all have written, not there otherwise."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from checkpoints import make_store, until
from safetensors.torch import load_file
from torch import Tensor

from packtrain.errors import StorageError
from packtrain.model.parallel import World
from packtrain.train import checkpoint_parts
from packtrain.train.checkpoint import (
    CheckpointStore,
    Part,
    PartWriter,
    Snapshot,
    TrainingState,
    part_of,
    read,
)
from packtrain.train.checkpoint_files import Commit
from packtrain.train.checkpoint_state import files_of

#: Rows of the tensor that three ranks hold: the last one has less, as torch.chunk gives it.
WHOLE = torch.arange(14.0).reshape(7, 2)


class Told:
    """What ranks tell each other, in one process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._mutex = threading.Lock()

    def tell(self, name: str, text: str) -> None:
        with self._mutex:
            self._texts[name] = text

    def ask(self, name: str) -> str | None:
        with self._mutex:
            return self._texts.pop(name, None)


def snapshot(step: int, index: int, count: int = 3) -> Snapshot:
    def mine(add: float) -> Tensor:
        chunks = [*(WHOLE + add).chunk(count), *(torch.empty(0, 2) for _ in range(count))]
        return chunks[index].clone()

    moments = {f"{moment}:w": mine(step + 0.5) for moment in ("exp_avg", "exp_avg_sq")}
    return Snapshot(TrainingState(step=step), {"w": mine(step)}, moments, part=Part(index, count))


def store_and_writers(folder: Path, count: int = 3) -> tuple[CheckpointStore, list[PartWriter], list[str]]:
    told, warnings = Told(), list[str]()
    writers = [PartWriter(folder, told) for _ in range(1, count)]
    return make_store(folder, exchange=told, warn=warnings.append), writers, warnings


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_parts_put_together_are_the_whole(tmp_path: Path, count: int) -> None:
    store, writers, _ = store_and_writers(tmp_path, count)
    for step in (4, 8):
        assert store.save(snapshot(step, 0, count), wait=False)
        for index, writer in enumerate(writers, start=1):
            writer.save(snapshot(step, index, count), wait=False)
        until(lambda: store.ready and all(writer.ready for writer in writers))
    assert [saved.step for saved in store.poll()] == [4, 8]
    path = store.newest()
    assert path is not None and {each.name for each in path.iterdir()} == files_of(count) | {"commit.json"}
    found = read(path)
    assert torch.equal(found.adapter["w"], WHOLE + 8)
    assert torch.equal(found.moments["exp_avg_sq:w"], WHOLE + 8.5)
    assert sorted(found.moments) == ["exp_avg:w", "exp_avg_sq:w"]
    with pytest.raises(KeyError):
        found.adapter["v"]
    for writer in writers:
        writer.close()
    assert store.close(wait_for_mirror=True, timeout=5)
    assert not list(tmp_path.glob(".step-*")), "nothing is left of the writing"


def test_it_does_not_count_before_the_last_part_is_there(tmp_path: Path) -> None:
    store, [second, third], _ = store_and_writers(tmp_path)
    assert store.save(snapshot(4, 0), wait=False)
    second.save(snapshot(4, 1), wait=True)
    time.sleep(0.2)
    assert not store.ready
    assert not (tmp_path / "step-4").exists()
    assert not store.save(snapshot(5, 0), wait=False), "one at a time"
    third.save(snapshot(4, 2), wait=True)
    until(lambda: store.ready)
    assert (tmp_path / "step-4").exists()


def test_the_same_step_again_does_not_meet_the_first_writing(tmp_path: Path) -> None:
    """A stop writes the step again that is being written: its parts go elsewhere."""
    store, [second, third], _ = store_and_writers(tmp_path)
    for wait in (False, True):
        second.save(snapshot(4, 1), wait=wait)
        third.save(snapshot(4, 2), wait=wait)
    assert store.save(snapshot(4, 0), wait=False)
    assert store.save(snapshot(4, 0), wait=True)
    assert [saved.step for saved in store.poll()] == [4, 4]
    path = store.newest()
    assert path is not None and torch.equal(read(path).adapter["w"], WHOLE + 4)


def test_a_part_that_cannot_be_written_fails_its_checkpoint_alone(tmp_path: Path) -> None:
    store, writers, warnings = store_and_writers(tmp_path)
    for save, step in enumerate((4, 8, 12), start=1):
        if step == 8:
            (tmp_path / f".step-8.{save}.tmp" / "adapter-3-of-3.safetensors").mkdir(parents=True)
        for index, writer in enumerate(writers, start=1):
            writer.save(snapshot(step, index), wait=False)
        assert store.save(snapshot(step, 0), wait=False)
        until(lambda: store.ready)
    assert [saved.step for saved in store.poll()] == [4, 12]
    assert "saving failed: cannot write the checkpoint" in warnings[0] and "part 3 of 3: " in warnings[0]
    assert warnings[1].startswith("checkpoints are written again")
    newest = store.newest()
    assert newest is not None and newest.name == "step-12"


def test_a_part_that_has_to_be_written_is_an_error(tmp_path: Path) -> None:
    store, writers, _ = store_and_writers(tmp_path, 2)
    (tmp_path / ".step-4.1.tmp" / "optimizer-2-of-2.safetensors").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write a part of a checkpoint"):
        writers[0].save(snapshot(4, 1, 2), wait=True)
    with pytest.raises(StorageError, match="part 2 of 2: "):
        store.save(snapshot(4, 0, 2), wait=True)
    assert list(tmp_path.iterdir()) == []


def test_the_end_does_not_wait_for_a_rank_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packtrain.train.checkpoint.CLOSING_SECONDS", 0.1)
    store, [second, _], warnings = store_and_writers(tmp_path)
    assert store.save(snapshot(4, 0), wait=False)
    second.save(snapshot(4, 1), wait=True)
    store.close(wait_for_mirror=False, timeout=0)
    assert "part 3 of 3 was not written" in warnings[0]
    assert not (tmp_path / "step-4").exists() and not list(tmp_path.glob(".step-*"))


def test_nobody_is_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_parts, "LIMIT", 0.1)
    store, _, _ = store_and_writers(tmp_path)
    with pytest.raises(StorageError, match="part 2 of 3 was not written"):
        store.save(snapshot(4, 0), wait=True)


def commit_of(names: set[str]) -> bytes:
    return Commit(1, 1, 1, dict.fromkeys(names, (1, "0"))).to_json()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_commit_names_all_parts(count: int) -> None:
    names = set(files_of(count))
    assert Commit.from_json(commit_of(names)).files.keys() == names
    for lost in names:
        with pytest.raises(ValueError, match="does not name the files"):
            Commit.from_json(commit_of(names - {lost}))
    with pytest.raises(ValueError, match="does not name the files"):
        Commit.from_json(commit_of(names | {"../../etc/passwd"}))


def test_who_writes_what() -> None:
    """Every node has all shards, so the first one's ranks write; a node of one rank has only its own."""
    eight = [World(rank, 16, rank % 8, 8) for rank in range(16)]
    assert [part_of(world, in_parts=True) for world in eight] == [
        *(Part(index, 8) for index in range(8)),
        *([Part(None, 8)] * 8),
    ]
    assert [part_of(world, in_parts=False).index for world in eight] == [0] + [None] * 15
    nodes = [World(rank, 2, 0, 1) for rank in range(2)]
    assert [part_of(world, in_parts=True) for world in nodes] == [Part(0), Part(None)]


def test_the_files_are_plain_safetensors(tmp_path: Path) -> None:
    store, [second], _ = store_and_writers(tmp_path, 2)
    second.save(snapshot(4, 1, 2), wait=True)
    assert store.save(snapshot(4, 0, 2), wait=True)
    parts = [load_file(tmp_path / "step-4" / f"adapter-{index}-of-2.safetensors")["w"] for index in (1, 2)]
    assert torch.equal(torch.cat(parts), WHOLE + 4)
