"""What a script has of a run becomes the settings that the verbs would have read."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from whole_run import Job

import packtrain
from packtrain.runfile import load as load_file


def content(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(job.run_file.read_text())
    return found


def test_a_path_a_mapping_and_a_config_are_the_same_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job.folder)
    expected = load_file(job.run_file).config
    assert packtrain.load(job.run_file) == packtrain.load(str(job.run_file)) == expected
    assert packtrain.load(expected) == expected
    assert packtrain.load(content(job)) == expected


def test_paths_and_tuples_are_what_yaml_would_have_read(job: Job) -> None:
    given = content(job)
    given["data"] |= {"train": (job.folder / "train.jsonl",)}
    given["evaluate"] |= {"prompts": ({"prompt": "What?", "expect": ("a", "b")},)}
    run = packtrain.load(given)
    assert run.data.train == [str(job.folder / "train.jsonl")]
    assert given["data"]["train"] == (job.folder / "train.jsonl",)  # the caller's own stays as it is


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.learning_rate": 1e-05, "train.epochs": 2, "evaluate.prompts": ["a: b", "# é"]},
        ["train.learning_rate=1e-05", "train.epochs=2", 'evaluate.prompts=["a: b", "# é"]'],
    ],
)
def test_overrides_are_texts_or_values(job: Job, overrides: Any) -> None:
    for run in (job.run_file, packtrain.load(job.run_file)):
        found = packtrain.load(run, overrides)
        assert (found.train.learning_rate, found.train.epochs) == (1e-05, 2.0)
        assert found.evaluate.prompts == ["a: b", "# é"]


def test_a_single_text_is_one_override(job: Job) -> None:
    assert packtrain.load(job.run_file, "train.epochs=2").train.epochs == 2.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train": {"epochs": "many"}}, r"^train\.epochs: expects a number, got the text 'many'$"),
        ({"train": {"epoch": 1}}, r"^train\.epoch: unknown key; did you mean train\.epochs\?$"),
        ({"name": "No"}, r"^name: must be a DNS label"),
        ({"data": {"train": "not-there.jsonl"}}, r"^data\.train: not-there\.jsonl is not there"),
        ({"data": None}, r"^data: expects keys and values, got nothing$|^data\.train: is missing"),
        ({"train": {"epochs": object()}}, r"^train\.epochs: expects a number"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_said_by_its_key(job: Job, change: Any, sentence: str) -> None:
    with pytest.raises(packtrain.PacktrainError, match=sentence) as raised:
        packtrain.load(content(job) | change)
    assert raised.value.exit_code == 78


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ({"train.epoch": 2}, "unknown key; did you mean train.epochs?"),
        ({"train": {"epochs": 2}}, "train is a section"),
        ({"train.epochs": Path("x")}, "expects a number"),
        (["train.epochs"], "is not KEY=VALUE"),
    ],
)
def test_a_wrong_override_is_named(job: Job, override: Any, sentence: str) -> None:
    with pytest.raises(packtrain.PacktrainError) as raised:
        packtrain.load(job.run_file, override)
    assert sentence in str(raised.value)


def test_a_run_file_that_is_not_there_shows_its_hint(tmp_path: Path) -> None:
    with pytest.raises(packtrain.PacktrainError) as raised:
        packtrain.load(tmp_path / "run.yaml")
    assert "is not there" in str(raised.value)
    assert raised.value.__notes__ == ["hint: packtrain init writes a run file to begin with"]


def test_a_folder_stays_a_folder_and_is_called() -> None:
    """Whatever was imported before: ``packtrain.plan`` is both."""
    import packtrain.plan.interval
    import packtrain.train.progress

    for name in ("plan", "train"):
        room = getattr(packtrain, name)
        assert isinstance(room, ModuleType)
        assert sys.modules[f"packtrain.{name}"] is room
        assert callable(room)
        assert [*inspect.signature(room).parameters][:2] == ["run", "overrides"]


def test_packtrain_says_what_it_has() -> None:
    assert set(packtrain.__all__) <= set(dir(packtrain))
    assert all(getattr(packtrain, name) is not None for name in packtrain.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        packtrain.nothing  # noqa: B018
