"""What ``auto`` becomes, when something is due, and what tells one base from another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM

from packtrain.config import CheckpointConfig, EvaluateConfig, ModelConfig, RunConfig, TrainConfig
from packtrain.errors import ConfigError
from packtrain.model.folder import weights_dtype
from packtrain.run.settings import (
    base_fingerprint,
    make_schedule,
    pick_dtype,
    pick_micro_batch,
    standing_bytes,
    use_activation_checkpointing,
    use_compile,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("dtype", "picked"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_the_type_of_the_base_on_a_cpu(dtype: str, picked: torch.dtype) -> None:
    assert pick_dtype(ModelConfig.model_validate({"source": "x", "dtype": dtype}), CPU) == picked


@pytest.mark.parametrize(
    ("micro_batch", "max_length", "device", "picked"),
    [
        ("auto", 256, CPU, 8),
        ("auto", 2048, CPU, 1),
        ("auto", 16_384, CPU, 1),
        ("auto", 2048, CUDA, 8),
        (3, 16_384, CPU, 3),
    ],
)
def test_micro_batches(micro_batch: str | int, max_length: int, device: torch.device, picked: int) -> None:
    config = TrainConfig.model_validate({"micro_batch": micro_batch})
    assert pick_micro_batch(config, max_length, device) == picked


@pytest.mark.parametrize(("knob", "on_cpu", "on_gpu"), [("auto", False, True), (True, True, True)])
def test_activation_checkpointing(knob: str | bool, on_cpu: bool, on_gpu: bool) -> None:
    config = TrainConfig.model_validate({"activation_checkpointing": knob})
    assert use_activation_checkpointing(config, CPU) is on_cpu
    assert use_activation_checkpointing(config, CUDA) is on_gpu


def a_run(train: dict[str, Any], adapter: dict[str, Any]) -> RunConfig:
    model, data = {"source": "m"}, {"train": "t.jsonl"}
    return RunConfig.model_validate(
        {"name": "a", "model": model, "data": data, "train": train, "adapter": adapter}
    )


def test_compiling_is_asked_for() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    assert use_compile(a_run({"compile": True}, {}))
    assert not use_compile(a_run({}, {"dropout": 0.1}))


@pytest.mark.parametrize(
    ("adapter", "said"), [({"dropout": 0.1}, "adapter.dropout"), ({"kind": "none"}, "adapter.kind: none")]
)
def test_what_is_not_compiled(adapter: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^train.compile: not with {said}"):
        use_compile(a_run({"compile": True}, adapter))


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="needs a C compiler, and this machine has none"):
        use_compile(a_run({"compile": True}, {}))


@pytest.mark.parametrize(
    ("every", "steps", "due"),
    [
        (0.25, 12, [0, 3, 6, 9, 12]),
        (0.1, 4, [0, 1, 2, 3, 4]),
        (1.0, 5, [0, 5]),
        (5, 12, [0, 5, 10, 12]),
        (1, 3, [0, 1, 2, 3]),
        (100, 3, [0, 3]),
    ],
)
def test_evaluations(every: float | int, steps: int, due: list[int]) -> None:
    schedule = make_schedule(EvaluateConfig(every=every), CheckpointConfig(), steps, has_validation=True)
    assert [step for step in range(steps + 1) if schedule.evaluation_due(step)] == due


def test_nothing_is_evaluated_without_validation() -> None:
    schedule = make_schedule(EvaluateConfig(), CheckpointConfig(), 10, has_validation=False)
    assert not any(schedule.evaluation_due(step) for step in range(11))


def test_checkpoints_by_time_or_by_steps() -> None:
    by_time = make_schedule(EvaluateConfig(), CheckpointConfig(every="5m"), 10, has_validation=True)
    assert [by_time.checkpoint_due(3, seconds) for seconds in (299.0, 300.0)] == [False, True]
    by_steps = make_schedule(EvaluateConfig(), CheckpointConfig(every=4), 10, has_validation=True)
    assert [since for since in range(1, 7) if by_steps.checkpoint_due(since, 1e9)] == [4, 5, 6]


class TestBaseFingerprint:
    @pytest.fixture
    def base(self, tmp_path: Path) -> Path:
        return make_tiny_base(tmp_path / "base")

    def test_is_the_same_elsewhere(self, base: Path, tmp_path: Path) -> None:
        before = base_fingerprint(base)
        shutil.copytree(base, tmp_path / "copy")
        (tmp_path / "copy" / "README.md").write_text("a copy")
        assert base_fingerprint(tmp_path / "copy") == before

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_another_file_is_another_base(self, base: Path, name: str) -> None:
        before = base_fingerprint(base)
        path = base / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert base_fingerprint(base) != before


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_has_to_stand_on_a_device(tmp_path: Path, dtype: str) -> None:
    folder = make_tiny_base(tmp_path, dtype=dtype, tied=True)
    assert weights_dtype(folder) == getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    header = 16_384
    stored = parameters * getattr(torch, dtype).itemsize
    assert 0 <= standing_bytes(folder, full=False) - stored < header
    assert 0 <= standing_bytes(folder, full=True) - 16 * parameters < 8 * header
