"""``micro_batch: auto`` on GPUs, from the planner; no GPU is needed to ask it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from packtrain.config import RunConfig
from packtrain.run.micro_batch import Room, choose

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIB = 1 << 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


def config(**train: Any) -> RunConfig:
    data = {"train": "d", "max_length": 256}
    return RunConfig.model_validate({"name": "x", "model": {"source": "m"}, "data": data, "train": train})


def test_with_room_it_is_the_usual_size(base: Path) -> None:
    choice = choose(config(), base, Room(1, 1, 80_000 * MIB), documents=4)
    assert choice.micro_batch == 16_384 // 256
    assert choice.needed < 80_000 * MIB


def test_without_room_it_is_what_fits(base: Path) -> None:
    room = Room(1, 1, 800 * MIB)
    choice = choose(config(), base, room, documents=4)
    assert 1 <= choice.micro_batch < 16_384 // 256
    assert choice.needed <= room.memory


def test_where_nothing_fits_one_is_tried(base: Path) -> None:
    choice = choose(config(), base, Room(1, 1, 100 * MIB), documents=1)
    assert choice.micro_batch == 1
    assert choice.needed > 100 * MIB


def test_no_more_than_a_gpus_part_of_a_step(base: Path) -> None:
    choice = choose(config(batch_tokens=4096), base, Room(2, 2, 80_000 * MIB), documents=1)
    assert choice.micro_batch == 8
