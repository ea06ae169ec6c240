"""Several data sets of another trainer's file: each keeps its format, its limit and its share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from packtrain.config import RunConfig
from packtrain.runfile.document import Document
from packtrain.runfile.elsewhere import translate

AXOLOTL: dict[str, Any] = {"base_model": "a/b", "learning_rate": 1e-4, "adapter": "lora"}
FACTORY: dict[str, Any] = {"stage": "sft", "model_name_or_path": "a/b", "finetuning_type": "lora"}
TRL: dict[str, Any] = {"model_name_or_path": "a/b", "use_peft": True, "lora_r": 8}
TORCHTUNE: dict[str, Any] = {
    "model": {"_component_": "torchtune.models.llama3.lora_llama3_8b", "lora_rank": 8, "lora_alpha": 16},
    "checkpointer": {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": "/m"},
    "loss": {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"},
    "optimizer": {"_component_": "torch.optim.AdamW", "lr": 1e-4},
    "tokenizer": {"_component_": "torchtune.models.llama3.llama3_tokenizer", "path": "/m/t"},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(content: dict[str, Any], **more: Any) -> tuple[RunConfig, dict[str, str]]:
    """The run file, which is one; and what could not be carried over, with the reason."""
    Path("theirs.yml").write_text(yaml.safe_dump(content | more))
    translated = translate(Path("theirs.yml"), 1)
    Path("ours.yaml").write_text(translated.text)
    return RunConfig.model_validate(Document.read(Path("ours.yaml")).data), dict(translated.left)


def items(config: RunConfig) -> list[dict[str, Any]]:
    return [item.model_dump(exclude_defaults=True) for item in config.data.mixture]


def test_axolotls_types_are_each_carried_over() -> None:
    sets = [
        {"path": "o/a", "type": "alpaca"},
        {"path": "o/c", "type": "chat_template", "split": "test[:500]"},
        {"path": "o/s", "type": "unheard.of"},
    ]
    config, left = made(AXOLOTL, datasets=sets)
    assert items(config) == [
        {"source": "o/a", "format": "alpaca"},
        {"source": "o/c:test", "format": "messages", "limit": 500},
        {"source": "o/s"},
    ]
    assert config.data.format == "auto"
    assert not [what for what in left if "500" in what]


def test_axolotls_sets_of_one_type_stay_a_plain_list() -> None:
    config, _ = made(AXOLOTL, datasets=[{"path": "o/a", "type": "alpaca"}, {"path": "o/b", "type": "alpaca"}])
    assert (config.data.train, config.data.format) == (["o/a", "o/b"], "alpaca")


def test_axolotls_shards_are_a_share_of_each_epoch() -> None:
    sets = [{"path": "o/a", "type": "alpaca", "shards": 4}, {"path": "o/b", "type": "alpaca", "shards": 1}]
    config, left = made(AXOLOTL, datasets=sets)
    assert items(config) == [{"source": "o/a", "weight": 0.25}, {"source": "o/b"}]
    assert config.data.format == "alpaca"
    assert "datasets[0].shards: 4, one of which is trained on" in left


def test_a_part_of_validation_is_listed() -> None:
    sets = [{"path": "o/a", "type": "alpaca"}]
    tests = [{"path": "o/a", "type": "alpaca", "split": "test[:50]"}]
    config, left = made(AXOLOTL, datasets=sets, test_datasets=tests)
    assert config.data.validation == "o/a:test"
    assert "test_datasets[0].split: test[:50]" in left


def test_llama_factorys_limits_formats_and_probabilities(here: Path) -> None:
    (here / "data").mkdir()
    known = {
        "one": {"hf_hub_url": "o/one", "split": "train[:300]"},
        "two": {"hf_hub_url": "o/two", "formatting": "sharegpt", "num_samples": 200},
        "three": {"hf_hub_url": "o/three"},
    }
    (here / "data" / "dataset_info.json").write_text(json.dumps(known))
    config, left = made(
        FACTORY,
        dataset="one,two,three",
        max_samples=250,
        mix_strategy="interleave_under",
        interleave_probs="0.5,0.25,0.25",
    )
    assert items(config) == [
        {"source": "o/one", "format": "alpaca", "limit": 250},
        {"source": "o/two", "format": "sharegpt", "limit": 200},
        {"source": "o/three", "format": "alpaca", "limit": 250},
    ]
    assert "the first rows are taken" in left["num_samples of the data set two: 200"]
    assert "set each item's weight" in left["interleave_probs: 0.5,0.25,0.25"]


def test_llama_factorys_one_set_has_the_limit_of_the_data() -> None:
    config, _ = made(FACTORY, dataset="o/one", max_samples=250)
    assert (config.data.train, config.data.limit) == ("o/one", 250)


def test_trls_sets_have_each_their_first_rows() -> None:
    config, left = made(TRL, datasets=[{"path": "o/a", "split": "train[:100]"}, {"path": "o/b"}])
    assert items(config) == [{"source": "o/a", "limit": 100}, {"source": "o/b"}]
    _, left = made(TRL, datasets=[{"path": "o/a", "split": "train[:10%]"}, {"path": "o/b"}])
    assert any("train[:10%]" in what for what in left)


def test_torchtunes_list_has_each_its_format_and_first_rows() -> None:
    sets = [
        {"_component_": "torchtune.datasets.alpaca_dataset", "split": "train[:100]"},
        {"_component_": "torchtune.datasets.chat_dataset", "source": "o/c", "conversation_style": "sharegpt"},
    ]
    config, _ = made(TORCHTUNE, dataset=sets)
    first, second = items(config)
    assert (first["format"], first["limit"]) == ("alpaca", 100)
    assert second == {"source": "o/c", "format": "sharegpt"}
    config, _ = made(TORCHTUNE, dataset=sets[0])
    assert config.data.limit == 100
