"""Snapshots of a stand-in hub, by the real client: pinned, filtered, and usable without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from standins.hub import Hub, Repo, point_here, serve_hub
from standins.hub_files import commit_of
from tiny import make_tiny_base

from packtrain.config import ModelConfig
from packtrain.errors import AccessError, ConfigError, UnavailableError
from packtrain.hub.snapshot import download
from packtrain.model.weights import load_tokenizer, resolve_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("base") / "b")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "consolidated.safetensors").write_bytes(b"twice the same")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    return folder


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub({"o/m": base}) as hub:
        point_here(monkeypatch, hub, tmp_path / "home")
        yield hub


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_needed(hub: Hub, base: Path) -> None:
    found = resolve_base(ModelConfig(source="o/m"))
    assert (found.revision, found.identity, found.source) == (commit_of(base), "o/m", "o/m")
    assert names(found.folder) == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
    }
    assert (found.folder / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_code_only_when_trusted(hub: Hub) -> None:
    found = resolve_base(ModelConfig(source="o/m", trust_remote_code=True))
    assert "modeling_own.py" in names(found.folder)


def test_without_weights_then_with(hub: Hub) -> None:
    config = ModelConfig(source="o/m")
    small = resolve_base(config, weights=False)
    assert "model.safetensors" not in names(small.folder)
    assert len(load_tokenizer(small, config)) == 272
    pinned = ModelConfig(source="o/m", revision=small.revision)
    assert "model.safetensors" in names(resolve_base(pinned).folder)


def test_a_pinned_base_needs_no_network(hub: Hub) -> None:
    first = resolve_base(ModelConfig(source="o/m"))
    hub.requests.clear()
    again = resolve_base(ModelConfig(source="o/m", revision=first.revision))
    assert again == first
    assert hub.requests == []


def test_a_revision_that_moves_is_asked_for_again(hub: Hub, base: Path, tmp_path: Path) -> None:
    first = resolve_base(ModelConfig(source="o/m"))
    hub.repos["models", "o/m"] = Repo({"main": make_tiny_base(tmp_path / "new", seed=1)})
    second = resolve_base(ModelConfig(source="o/m"))
    assert second.revision != first.revision
    pinned = resolve_base(ModelConfig(source="o/m", revision=first.revision))
    assert (pinned.folder / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_offline_from_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve_base(ModelConfig(source="o/m"))
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_base(ModelConfig(source="o/m")) == first
    assert hub.requests == []


def test_offline_and_not_in_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UnavailableError, match="in the cache and the Hugging Face hub is not asked"
    ) as caught:
        resolve_base(ModelConfig(source="o/m"))
    assert "HF_HUB_OFFLINE" in (caught.value.hint or "")


def test_offline_with_half_of_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_base(ModelConfig(source="o/m"), weights=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="in the cache and the Hugging Face hub is not asked"):
        resolve_base(ModelConfig(source="o/m"))


def test_the_hub_is_down_and_the_cache_helps(hub: Hub) -> None:
    first = resolve_base(ModelConfig(source="o/m"))
    hub.fail("/", 503)
    said: list[str] = []
    assert resolve_base(ModelConfig(source="o/m"), on_progress=said.append) == first
    assert said == ["the Hugging Face hub does not answer: o/m is taken from the cache"]


def test_the_hub_goes_down_in_the_middle(hub: Hub) -> None:
    hub.fail(r"model\.safetensors", 503)
    with pytest.raises(UnavailableError, match="o/m"):
        resolve_base(ModelConfig(source="o/m"))
    hub.faults.clear()
    assert "model.safetensors" in names(resolve_base(ModelConfig(source="o/m")).folder)


def test_gated(hub: Hub, base: Path) -> None:
    hub.repos["models", "o/m"] = Repo({"main": base}, gated=True)
    with pytest.raises(AccessError, match="is gated"):
        resolve_base(ModelConfig(source="o/m"))
    assert [line for line in hub.requests if line.startswith("GET")] == []


def test_a_cached_base_that_is_gated_now(hub: Hub, base: Path) -> None:
    resolve_base(ModelConfig(source="o/m"))
    hub.repos["models", "o/m"] = Repo({"main": base}, gated=True)
    with pytest.raises(AccessError, match="is gated"):
        resolve_base(ModelConfig(source="o/m"))


def test_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "bin")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.repos["models", "o/m"] = Repo({"main": folder})
    with pytest.raises(ConfigError, match=r"o/m: has no model\.safetensors"):
        resolve_base(ModelConfig(source="o/m"))


def test_of_a_data_set(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_hub(datasets={"o/d": base}) as hub:
        point_here(monkeypatch, hub, tmp_path / "home")
        found = download("o/d", None, allow=["*.bin"], repo_type="dataset")
    assert (found.commit, names(found.folder)) == (commit_of(base), {"pytorch_model.bin"})
