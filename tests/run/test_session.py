"""Whole runs: what they leave, that a seed repeats them, and what running again does."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_base
from whole_run import SEVEN, Job, facts, make_job, write_rows

from packtrain.storage.checksums import digests

STEP = {"loss", "tokens", "supervised_tokens", "learning_rate", "grad_norm", "tokens_per_second"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Job:
    made = make_job(tmp_path_factory.mktemp("finished"), base)
    made.done()
    return made


def test_the_seven_files_are_there_and_are_what_the_receipt_says(finished: Job) -> None:
    receipt = finished.receipt()
    assert set(receipt["files"]) >= SEVEN
    assert {path.name for path in finished.run_dir.adapter.iterdir()} == set(receipt["files"])
    for name, said in receipt["files"].items():
        assert digests(finished.run_dir.adapter / name) == (said["bytes"], said["sha256"], said["crc32c"])


def test_the_receipt_says_how_the_adapter_came_about(finished: Job, base: Path) -> None:
    receipt, steps = finished.receipt(), finished.story("step")
    assert receipt["base"]["source"] == str(base)
    [source] = receipt["data"]["sources"]["train"]["files"]
    assert source["sha256"] == digests(finished.folder / "train.jsonl")[1]
    metrics = receipt["metrics"]
    assert metrics["loss"] < metrics["base_loss"]
    assert metrics["train_runtime"] > 0
    supervised = [event.fields["supervised_tokens"] for event in steps]
    losses = [event.fields["loss"] * count for event, count in zip(steps, supervised, strict=True)]
    assert metrics["train_loss"] == pytest.approx(sum(losses) / sum(supervised))
    assert receipt["tokens"] == sum(event.fields["tokens"] for event in steps)
    assert (receipt["seed"], receipt["steps"], metrics["epoch"]) == (42, 6, 3.0)
    assert {"python", "torch", "transformers", "peft"} <= set(receipt["versions"])


def test_the_events_tell_the_whole_story(finished: Job) -> None:
    lines = [json.loads(line) for line in finished.run_dir.events_file.read_text().splitlines()]
    assert all({"version", "time", "attempt", "seq", "kind", "step"} <= line.keys() for line in lines)
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    told = [(event.kind, event.step) for event in finished.story()]
    # Checkpoints are written beside training, and told of when they are complete.
    assert [each for each in told if each[0] != "checkpoint"] == [
        *[("start", 0), ("data", 0), ("eval", 0), ("step", 1), ("step", 2), ("step", 3), ("eval", 3)],
        *[("step", 4), ("step", 5), ("step", 6), ("eval", 6), ("end", 6)],
    ]
    saved = [step for kind, step in told if kind == "checkpoint"]
    assert saved == sorted(saved) and saved[0] == 2 and saved[-1] == 6
    assert all(event.fields.keys() >= STEP for event in finished.story("step"))
    evals = finished.story("eval")
    assert [event.fields["model"] for event in evals] == ["base", "adapter", "adapter"]
    assert all(event.fields["perplexity"] > 1 for event in evals)
    metrics = finished.receipt()["metrics"]
    assert (metrics["base_loss"], metrics["loss"]) == (evals[0].fields["loss"], evals[-1].fields["loss"])
    assert finished.story("start")[0].fields["resumed_from"] is None
    assert finished.story("end")[0].fields["outcome"] == "done"


def test_what_the_rows_say_is_nowhere(tmp_path: Path, base: Path) -> None:
    rows = [row | {"response": row["response"] + " xyzzy"} for row in facts(24)]
    rows += [{"instruction": "plugh?", "context": "plugh", "response": ""}, rows[0]]
    job = make_job(tmp_path / "job", base, rows=rows, data={"on_bad_row": "skip"})
    ended = job.done("-s", f"output.uri={tmp_path / 'out'}")
    assert "train.jsonl:25" in ended.err
    written = b"".join(
        path.read_bytes() for folder in (job.run_dir.path, tmp_path / "out") for path in folder.rglob("*.*")
    )
    for word in ("xyzzy", "plugh"):
        assert word not in ended.out + ended.err
        assert word.encode() not in written
    assert b"train.jsonl:25" in written


def test_plain_transformers_and_peft_open_the_adapter(finished: Job, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished.run_dir.adapter
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([tokenizer("Fact 3 is 1.")["input_ids"]])
    with torch.no_grad():
        before = plain(ids).logits
        after = PeftModel.from_pretrained(plain, folder)(ids).logits
    assert not torch.allclose(before, after, atol=1e-3)
    trained = load_file(folder / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in trained.items() if "lora_B" in name)


def test_a_seed_repeats_a_run_to_the_bit(finished: Job, tmp_path: Path, base: Path) -> None:
    other = make_job(tmp_path / "other", base)
    other.done()
    assert other.weights() == finished.weights()
    assert other.losses() == finished.losses()
    another = make_job(tmp_path / "another", base, train={"seed": 43})
    another.done()
    assert another.weights() != finished.weights()


@pytest.mark.parametrize("change", [{"micro_batch": 1}, {"micro_batch": 2, "activation_checkpointing": True}])
def test_speed_knobs_do_not_change_what_is_learnt(
    tmp_path: Path, base: Path, change: dict[str, object]
) -> None:
    reference = make_job(tmp_path / "reference", base, adapter={"dropout": 0.2})
    reference.done()
    changed = make_job(tmp_path / "changed", base, adapter={"dropout": 0.2}, train=change)
    changed.done()
    assert changed.losses() == pytest.approx(reference.losses(), rel=1e-5)
    without = make_job(tmp_path / "without", base)
    without.done()
    assert without.losses() != pytest.approx(reference.losses(), rel=1e-5)


def test_a_finished_run_does_nothing_when_it_is_run_again(job: Job) -> None:
    job.done()
    before = {path: path.stat().st_mtime_ns for path in job.run_dir.path.rglob("*") if path.is_file()}
    again = job.done()
    assert "is finished; nothing was done" in again.out
    assert "receipt.json" in again.out
    assert {path: path.stat().st_mtime_ns for path in job.run_dir.path.rglob("*") if path.is_file()} == before


def test_knobs_that_do_not_affect_training_leave_it_finished(job: Job) -> None:
    job.done()
    assert "nothing was done" in job.done("-s", "checkpoint.every=1", "-s", "train.micro_batch=1").out


def test_a_changed_knob_is_another_run(job: Job) -> None:
    job.done()
    weights = job.weights()
    refused = job.train("-s", "train.learning_rate=1e-3", "-s", "adapter.rank=8")
    assert refused.code == 78
    assert "adapter.rank: 4 -> 8" in refused.err
    assert "train.learning_rate: 0.003 -> 0.001" in refused.err
    assert "--new" in refused.err
    assert job.weights() == weights


def test_another_name_does_not_take_the_folder(job: Job) -> None:
    job.done()
    refused = job.train("-s", "name=other")
    assert refused.code == 73
    assert "holds the run tiny, not other" in refused.err


def test_new_moves_the_old_run_aside_whole(job: Job) -> None:
    job.done()
    old, run_id = job.weights(), job.receipt()["run_id"]
    ended = job.done("--new", "-s", "train.seed=7")
    assert job.weights() != old
    aside = job.folder / f"run-{run_id.lower()}"
    assert f"the old run is now {aside}" in ended.err
    assert json.loads((aside / "receipt.json").read_text())["run_id"] == run_id
    assert job.receipt()["run_id"] != run_id


def test_a_new_place_gets_the_finished_adapter(job: Job) -> None:
    first, second = job.folder / "first", job.folder / "second"
    job.done("-s", f"output.uri={first}")
    assert (first / "receipt.json").read_bytes() == job.run_dir.receipt_file.read_bytes()
    steps = len(job.story("step"))
    ended = job.done("-s", f"output.uri={second}")
    assert f"Successfully uploaded model to {second}" in ended.out
    assert (second / "receipt.json").read_bytes() == job.run_dir.receipt_file.read_bytes()
    assert len(job.story("step")) == steps
    assert "nothing was done" in job.done("-s", f"output.uri={first}").out


def test_a_damaged_adapter_is_made_again_from_the_last_checkpoint(job: Job) -> None:
    job.done()
    weights = job.weights()
    path = job.run_dir.adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    ended = job.done()
    assert job.weights() == weights
    assert "going on after step 6" in ended.err
    assert len(job.story("step")) == 6


def test_a_damaged_checkpoint_is_passed_over(job: Job) -> None:
    job.done()
    weights = job.weights()
    shutil.rmtree(job.run_dir.adapter)
    state = job.run_dir.checkpoints / "step-6" / "state.json"
    state.write_text(state.read_text() + " ")
    *_, before, last = job.checkpoint_steps()
    assert last == 6
    ended = job.done()
    assert "warning: checkpoint step-6 is passed over: state.json is not what was written" in ended.err
    assert job.weights() == weights
    assert [event.fields["resumed_from"] for event in job.story("start")] == [None, before]


@pytest.mark.parametrize("what", ["training data", "validation data", "base"])
def test_what_changed_is_named_when_a_run_goes_on(tmp_path: Path, what: str) -> None:
    folder = make_tiny_base(tmp_path / "base")
    job = make_job(tmp_path / "job", folder, data={"validation": "held-out.jsonl"})
    write_rows(job.folder / "held-out.jsonl", facts(4, first=100))
    job.done()
    shutil.rmtree(job.run_dir.adapter)
    if what == "base":
        make_tiny_base(folder, seed=1)
    else:
        name = "train.jsonl" if what == "training data" else "held-out.jsonl"
        write_rows(job.folder / name, facts(24, first=200))
    refused = job.train()
    assert refused.code == 78
    assert f"was made with another {what}" in refused.err
    assert "--new" in refused.err


def test_a_save_that_does_not_fit_the_grace_is_said_once_and_made_twice_as_often(job: Job) -> None:
    job.done("-s", "train.epochs=20", "-s", "checkpoint.every=6", "-s", "checkpoint.grace=0.001s")
    said = [event.fields["message"] for event in job.story("warning")]
    [warning] = [message for message in said if "checkpoint.grace" in message]
    assert warning.endswith("too long for checkpoint.grace 0.001s: it is saved twice as often instead")
    saved = [event.step for event in job.story("checkpoint")]
    assert saved[0] == 6 and min(after - before for before, after in pairwise(saved)) < 6


def test_what_checkpoints_cost_training_is_measured(finished: Job) -> None:
    blocked = [event.fields["blocked"] for event in finished.story("checkpoint")]
    assert min(blocked) >= 0.0 < sum(blocked)
