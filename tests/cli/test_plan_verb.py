"""``packtrain plan`` as a user calls it, with the real tracer on tiny models, without any network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_machine import SMALL
from tiny import make_tiny_base

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    machines = tmp_path / "machines.toml"
    machines.write_text(SMALL.format(memory=830))
    monkeypatch.setenv("PACKTRAIN_MACHINES", str(machines))


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    base = make_tiny_base(tmp_path / "base")
    rows = [
        {"instruction": f"What is {n}?", "context": "", "response": f"It is {n}. " * 5} for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"name: tiny\nmodel: {{source: {base}}}\ndata: {{train: rows.jsonl, max_length: 256}}\n"
        "train: {batch_tokens: 1024}\n"
    )
    return path


@pytest.mark.slow
def test_json_has_memory_time_and_cost(cli: Cli, run_file: Path) -> None:
    ended = cli("plan", str(run_file), "--json", "--max-batch", "--max-length", "-s", "plan.gpu=small")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["fits"] is True
    memory = found["memory"]
    assert (
        memory["resident_bytes"]
        <= memory["peak_bytes"]
        < memory["reserved_bytes"]
        < memory["available_bytes"]
    )
    assert sum(memory["by_kind"].values()) == memory["peak_bytes"]
    seconds = found["time"]["seconds"]
    assert 0 < seconds["low"] < seconds["expected"] < seconds["high"]
    assert sum(part["expected"] for part in found["time"]["parts"].values()) == pytest.approx(
        seconds["expected"], abs=0.1
    )
    assert found["cost"]["currency"] == "USD"
    assert 0 < found["cost"]["low"] < found["cost"]["expected"] < found["cost"]["high"]
    assert found["data"]["rows"] + 1 == 40  # one of 40 is held out
    assert found["data"]["error"] == 0.0
    assert found["suggestions"] == []
    for batch, code in ((found["max_batch"], 0), (found["max_batch"] + 1, 76)):
        tried = cli("plan", str(run_file), "-s", "plan.gpu=small", "-s", f"plan.micro_batch={batch}")
        assert tried.code == code
    assert found["max_length"] > 256


def test_a_terminals_table_says_the_same(cli: Cli, run_file: Path) -> None:
    ended = cli("plan", str(run_file))
    assert ended.code == 0
    assert "tiny on 1 × a3-megagpu-8g (8 × NVIDIA H100 80GB), spot" in ended.out
    for word in ("weights", "peak", "fits", "step", "data", "time", "cost", "calibrated on"):
        assert word in ended.out


def test_memory_needs_no_tokenizer_and_no_data(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(tmp_path / "base/config.json", only)
    ended = cli(
        "plan", str(run_file), "--json", "-s", f"model.source={only}", "-s", "data.train=not/there.jsonl"
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["memory"]["peak_bytes"] > 0
    assert found["time"]["seconds"] is None
    assert "needs the tokenizer and the data" in found["time"]["why"]
    assert found["time"]["tokens_per_second"] > 0
    assert found["cost"] is None
    assert found["cost_why"]


def test_data_that_is_not_there_is_said_and_no_failure(cli: Cli, run_file: Path) -> None:
    ended = cli("plan", str(run_file), "-s", "data.train=gone.jsonl")
    assert ended.code == 0, ended.err
    assert "time       not known" in ended.out
    assert "gone.jsonl" in ended.out


@pytest.mark.slow
def test_what_does_not_fit_ends_with_76_and_says_what_would(cli: Cli, run_file: Path) -> None:
    small = ("-s", "plan.gpu=small", "-s", "train.micro_batch=200")
    ended = cli("plan", str(run_file), "--json", *small)
    assert ended.code == 76
    assert "error: tiny does not fit" in ended.err
    found = json.loads(ended.out)
    assert found["fits"] is False
    first = found["suggestions"][0]
    assert first["set"][0].startswith("train.micro_batch=")
    assert first["reserved_bytes"] <= found["memory"]["available_bytes"]
    again = cli("plan", str(run_file), "--json", *small, "-s", first["set"][0])
    assert again.code == 0, again.err
    assert json.loads(again.out)["memory"]["peak_bytes"] == first["peak_bytes"]


@pytest.mark.slow
def test_scale_traces_real_steps(cli: Cli, run_file: Path) -> None:
    ended = cli("plan", str(run_file), "--json", "--scale", "8,16", "-s", "plan.sharding=fsdp")
    assert ended.code == 0, ended.err
    few, many = json.loads(ended.out)["scale"]
    assert (few["gpus"], many["gpus"], many["nodes"]) == (8, 16, 2)
    assert few["communication_bytes"]["between_nodes"] == 0
    assert many["communication_bytes"]["between_nodes"] > 0
    assert many["efficiency"] < few["efficiency"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("-s", "plan.gpsu=8"), 78, "did you mean plan.gpu?"),
        (("-s", "plan.gpu=h1000"), 78, "did you mean h100"),
        (("-s", "plan.gpus=12"), 78, "no whole number of a3-megagpu-8g"),
        (("-s", "train.epoch=2"), 78, "did you mean train.epochs?"),
        (("--scale", "many"), 2, "--scale many"),
        (("-s", "model.source=no-such/model"), 69, "not (wholly) in the cache"),
        (("-s", "model.source=./nowhere"), 78, "is not there"),
    ],
)
def test_a_mistake_is_one_sentence(
    cli: Cli, run_file: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    ended = cli("plan", str(run_file), *arguments)
    assert ended.code == code, ended.err
    assert sentence in ended.err
    assert "Traceback" not in ended.err


def test_an_encoder_is_no_base_to_plan_for(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    ended = cli("plan", str(run_file), "-s", f"model.source={folder}")
    assert ended.code == 78
    assert "not a causal language model" in ended.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from packtrain.cli.main import main; main(['plan', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
