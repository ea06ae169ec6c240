"""Checkpoints: exact, whole, and passed over when they are not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import make_store, no_warning

from packtrain.errors import ConfigError, StorageError
from packtrain.train import checkpoint
from packtrain.train.checkpoint import Snapshot, TrainingState, take_snapshot
from packtrain.train.loop import Trainer

MakeTrainer = Callable[..., Trainer]
FINGERPRINT = {"training data": "abc", "base": "def"}


def trained(make_trainer: MakeTrainer, steps: int) -> tuple[Trainer, TrainingState]:
    trainer, state = make_trainer(), TrainingState(fingerprint=dict(FINGERPRINT))
    for step in range(1, steps + 1):
        trainer.step(step, lambda: False)
        state.step = step
    return trainer, state


def snap(trainer: Trainer, state: TrainingState) -> Snapshot:
    return take_snapshot(state, trainer.adapter, trainer.optimizer)


def save(folder: Path, trainer: Trainer, state: TrainingState, keep: int = 2) -> Path:
    assert make_store(folder, keep=keep).save(snap(trainer, state), wait=True)
    return folder / f"step-{state.step}"


def newest(folder: Path, warn: Callable[[str], None] = no_warning) -> Path | None:
    return make_store(folder, warn=warn).newest()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_going_on_from_a_checkpoint_repeats_to_the_bit(
    make_trainer: MakeTrainer, tmp_path: Path, steps: int
) -> None:
    trainer, state = trained(make_trainer, steps)
    path = save(tmp_path, trainer, state)
    resumed = make_trainer()
    checkpoint.restore(checkpoint.read(path), resumed.adapter, resumed.optimizer, FINGERPRINT)
    for step in range(steps + 1, 7):
        assert trainer.step(step, lambda: False).loss == resumed.step(step, lambda: False).loss
    for name, tensor in trainer.adapter.tensors().items():
        assert torch.equal(tensor, resumed.adapter.tensors()[name])


def test_a_snapshot_is_of_its_moment(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, state = trained(make_trainer, 2)
    taken = snap(trainer, state)
    trainer.step(3, lambda: False)
    state.step, state.settings["micro_batch"] = 3, 2
    assert make_store(tmp_path).save(taken, wait=True)
    resumed, undisturbed = make_trainer(), trained(make_trainer, 2)[0]
    checkpoint.restore(checkpoint.read(tmp_path / "step-2"), resumed.adapter, resumed.optimizer, FINGERPRINT)
    assert checkpoint.read_state(tmp_path / "step-2") == TrainingState(step=2, fingerprint=FINGERPRINT)
    assert resumed.step(3, lambda: False).loss == undisturbed.step(3, lambda: False).loss


def test_one_before_the_first_step_has_moments_of_zero(make_trainer: MakeTrainer) -> None:
    trainer, state = trained(make_trainer, 0)
    taken = snap(trainer, state)
    assert len(taken.moments) == 2 * len(taken.adapter)
    assert not any(moment.any() for moment in taken.moments.values())


def test_the_state_comes_back_as_it_was(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, state = trained(make_trainer, 1)
    state.loss_sum, state.seconds, state.base_loss = 1 / 3, 0.1, 2.7
    state.settings = {"micro_batch": 2}
    assert checkpoint.read_state(save(tmp_path, trainer, state)) == state


def test_keeps_the_newest(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, state = trained(make_trainer, 1)
    for step in (1, 5, 9, 10):
        state.step = step
        save(tmp_path, trainer, state, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-9"]
    found = newest(tmp_path)
    assert found is not None and found.name == "step-10"


@pytest.mark.parametrize("name", [*checkpoint.FILES, checkpoint.COMMIT])
@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_a_damaged_one_is_passed_over_with_a_warning(
    make_trainer: MakeTrainer, tmp_path: Path, name: str, how: str
) -> None:
    trainer, state = trained(make_trainer, 1)
    save(tmp_path, trainer, state)
    state.step = 2
    damaged = save(tmp_path, trainer, state) / name
    content = damaged.read_bytes()
    if how == "missing":
        damaged.unlink()
    elif how == "cut":
        damaged.write_bytes(content[: len(content) // 2])
    else:
        damaged.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    warnings: list[str] = []
    found = newest(tmp_path, warnings.append)
    assert found is not None and found.name == "step-1"
    assert len(warnings) == 1 and warnings[0].startswith("checkpoint step-2 is passed over: ")


def test_what_a_killed_save_leaves_does_not_count(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, state = trained(make_trainer, 1)
    path = save(tmp_path, trainer, state)
    (path / "commit.json").unlink()  # it is written last
    path.rename(tmp_path / ".step-1.1.tmp")
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("what", ["training data", "base"])
def test_another_data_or_base_is_refused_by_name(
    make_trainer: MakeTrainer, tmp_path: Path, what: str
) -> None:
    trainer, state = trained(make_trainer, 1)
    path = save(tmp_path, trainer, state)
    with pytest.raises(ConfigError, match=f"checkpoint step-1 was made with another {what}"):
        checkpoint.restore(
            checkpoint.read(path), trainer.adapter, trainer.optimizer, FINGERPRINT | {what: "other"}
        )


def test_another_versions_state_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, state = trained(make_trainer, 1)
    path = save(tmp_path, trainer, state)
    content = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(content | {"version": 99}))
    with pytest.raises(ConfigError, match="another version of packtrain"):
        checkpoint.read_state(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_sentence(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, state = trained(make_trainer, 1)
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot write the checkpoint"):
        save(tmp_path / "checkpoints", trainer, state)


def test_a_file_in_the_way_is_a_sentence(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, state = trained(make_trainer, 1)
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write the checkpoint"):
        save(tmp_path / "checkpoints", trainer, state)
