"""The probe on this machine's CPU against a real run, both timed in CPU seconds of this process: others who
work on the machine do not decide."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny import make_tiny_base

from packtrain.cli.main import main
from packtrain.config import RunConfig
from packtrain.data.tokenized import TokenizedRows
from packtrain.plan import probe
from packtrain.plan.data import DataStats
from packtrain.plan.interval import Interval
from packtrain.plan.options import PlanKeys
from packtrain.plan.plan import make_setup, read_base, read_data
from packtrain.plan.setup import Setup
from packtrain.plan.target import Target
from packtrain.runfile import load

#: Large enough for its steps to be work, and not overhead.
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}


@pytest.fixture
def run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import torch

    monkeypatch.setattr(time, "perf_counter", time.process_time)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    base = make_tiny_base(tmp_path / "base", shape=SHAPE)
    lines = [
        json.dumps(
            {"instruction": f"Count to {n % 37}.", "context": "", "response": "one, two, " * (n % 23 + 1)}
        )
        for n in range(200)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"name: timed\nmodel: {{source: {base}}}\n"
        "data: {train: rows.jsonl, max_length: 256, validation: 0}\n"
        f"train: {{batch_tokens: 2048, max_steps: 8, threads: 1}}\noutput: {{uri: {tmp_path / 'out'}}}\n"
    )
    before = torch.get_num_threads()
    yield path
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_what_is_predicted_is_what_a_run_takes(
    run_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    monkeypatch.setattr(probe, "TRAINING", 3.0)
    run_file.write_text(f"{run_file.read_text()}adapter: {{kind: {kind}}}\n")
    config = load(run_file).config
    base = read_base(config, lambda _: None)
    data, why = read_data(config, base, lambda _: None)
    assert data is not None, why
    setup = make_setup(config, PlanKeys(gpu="cpu"), base, Target(None, 1), data)
    step, planned = probe.probe(config, base.files, setup, data)
    assert planned.answers.high == planned.evaluation.high == 0.0
    capsys.readouterr()
    assert main(["train", str(run_file), "--run-dir", str(tmp_path / "run"), "--json"]) == 0
    happened = json.loads(capsys.readouterr().out)["receipt"]["metrics"]["train_runtime"]
    assert data.steps == 8
    assert planned.training.expected == pytest.approx(happened, rel=0.25)
    assert step.seconds.low < step.seconds.expected < step.seconds.high


def test_without_bitsandbytes_a_plan_has_no_time_and_says_why(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "find_spec", lambda _: None)
    assert main(["plan", str(run_file), "-s", "adapter.kind=qlora", "-s", "plan.gpu=cpu"]) == 0
    assert "not known: a step in 4 bits needs bitsandbytes" in capsys.readouterr().out


@pytest.mark.slow
def test_the_imports_of_a_run_are_timed_in_a_process_of_their_own() -> None:
    assert probe.importing() > 0.3  # a Python that imports nothing takes hundredths


def test_a_start_is_told_by_the_imports_that_were_timed() -> None:
    quick, slow = (_startup(imports) for imports in (2.0, 12.0))
    assert slow.expected - quick.expected == pytest.approx(10.0)
    assert quick.low < quick.expected < quick.high


def _startup(imports: float) -> Interval:
    config = RunConfig.model_validate({"name": "a", "model": {"source": "x/y"}, "data": {"train": "r.jsonl"}})
    tokens = TokenizedRows.of([np.zeros(4, np.int32)], [np.ones(4, np.bool_)], ["r.jsonl:1"])
    data = DataStats(
        rows=100,
        tokens=4000,
        supervised=0.5,
        bins=20,
        packing_efficiency=0.8,
        documents=5.0,
        steps=4,
        steps_per_epoch=4,
        validation_tokens=0,
        sampled_rows=100,
        error=0.0,
        sample=tokens,
    )
    timed = probe.Timed(a_token=1e-3, update=0.1, evaluated_token=1e-3, answered_token=0.1, imports=imports)
    return probe.times(config, Setup(model="{}"), data, timed, weights=1000)[1].startup
