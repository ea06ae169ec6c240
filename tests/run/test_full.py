"""Full fine-tuning, a whole run: every weight is trained, and what comes out is a model like its base."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer
from whole_run import Job, make_job, packtrain

SMALL = {"hidden_size": 32, "intermediate_size": 64}
#: As the base has them, byte for byte.
KEPT = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
NORM = "model.norm.weight"


def full_job(folder: Path, base: Path, **sections: Any) -> Job:
    adapter: dict[str, Any] = {"kind": "none", "rank": 16}
    return make_job(folder, base, adapter=adapter, **sections)


def sha256(job: Job) -> str:
    return hashlib.sha256((job.run_dir.adapter / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module", params=["untied float32", "tied bfloat16"])
def small_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tied, dtype = request.param.startswith("tied"), request.param.split()[1]
    return make_tiny_base(tmp_path_factory.mktemp("base"), tied=tied, dtype=dtype, shape=SMALL)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Job:
    prompts = [{"prompt": "What is fact 3?", "expect": "1"}]
    job = full_job(tmp_path_factory.mktemp("done"), small_base, evaluate={"prompts": prompts})
    ended = job.done("--json")
    (job.folder / "out.json").write_text(ended.out)
    (job.folder / "err.txt").write_text(ended.err)
    return job


def test_the_result_is_a_model_like_its_base(done: Job, small_base: Path) -> None:
    folder = done.run_dir.adapter
    assert {path.name for path in folder.iterdir()} == {
        *KEPT,
        *("model.safetensors", "README.md", "special_tokens_map.json", "training_args.bin"),
        *("chat_template.jinja", "report.html"),
    }
    for name in KEPT:
        assert (folder / name).read_bytes() == (small_base / name).read_bytes(), name
    before, after = load_file(small_base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in after.items()} == {
        name: (t.shape, t.dtype) for name, t in before.items()
    }
    changed = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    assert changed == list(before), "every weight was trained"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template and model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_the_receipt_the_card_and_the_events_say_what_it_is(done: Job) -> None:
    receipt = done.receipt()
    assert receipt["kind"] == "none"
    assert receipt["metrics"]["reload_logit_error"] < 1e-5
    assert receipt["metrics"]["loss"] < receipt["metrics"]["base_loss"]
    assert set(receipt["files"]) == {path.name for path in done.run_dir.adapter.iterdir()}
    card = (done.run_dir.adapter / "README.md").read_text()
    assert "every weight of which was fine-tuned" in card and "peft" not in card.split("## Settings")[0]
    assert "adapter.rank" not in card and "| adapter.kind | none |" in card
    assert [event.fields["model"] for event in done.story("eval")] == ["base", "model", "model"]
    assert done.losses()[-1] < done.losses()[0]


def test_a_rate_for_adapters_is_warned_of(done: Job, small_base: Path, tmp_path: Path) -> None:
    [warning] = [event.fields["message"] for event in done.story("warning")]
    assert warning.startswith("train.learning_rate 0.003 is high for full fine-tuning")
    assert warning in (done.folder / "err.txt").read_text()
    usual = full_job(tmp_path, small_base, train={"learning_rate": 1e-4, "epochs": 1})
    usual.done()
    assert usual.story("warning") == []


def test_the_base_answers_as_it_did_before(done: Job, small_base: Path, tmp_path: Path) -> None:
    """It is read anew: what was trained has taken its place in memory."""
    [answer] = json.loads((done.folder / "out.json").read_text())["answers"]
    untouched = make_job(tmp_path, small_base, evaluate={"prompts": ["What is fact 3?"]})
    [theirs] = json.loads(untouched.done("--json").out)["answers"]
    assert answer["base"] == theirs["base"]
    if json.loads((small_base / "config.json").read_text())["tie_word_embeddings"] is False:
        assert answer["adapter"] != answer["base"]


def test_a_checkpoint_holds_the_masters_and_their_moments(
    done: Job, small_base: Path, tmp_path: Path
) -> None:
    """In fp32, also where the model is published in bfloat16."""
    newest = done.run_dir.checkpoints / "step-6"
    assert {path.name for path in newest.iterdir()} == {
        *("adapter.safetensors", "optimizer.safetensors", "state.json", "commit.json")
    }
    weights = load_file(newest / "adapter.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    moments = load_file(newest / "optimizer.safetensors")
    assert moments.keys() == {f"{moment}:{name}" for name in weights for moment in ("exp_avg", "exp_avg_sq")}
    published = load_file(done.run_dir.adapter / "model.safetensors")
    for name, tensor in published.items():
        assert torch.equal(tensor, weights[name].to(tensor.dtype)), "rounded once, at the end"
    if published[NORM].dtype == torch.bfloat16:
        assert not torch.equal(published[NORM].float(), weights[NORM])


def test_a_cut_after_training_ends_with_the_same_model(done: Job, small_base: Path, tmp_path: Path) -> None:
    """What is rounded at the end are not the weights that a checkpoint holds."""
    prompts = [{"prompt": "What is fact 3?", "expect": "1"}]
    job = full_job(tmp_path, small_base, evaluate={"prompts": prompts, "fail_if": {"answers_below": 1.0}})
    ended = job.train()
    assert ended.code == 76 and "prompts are answered as expected" in ended.err
    # It is there to be looked at, and is no result: nothing vouches for it.
    assert job.run_dir.adapter.exists()
    assert not job.run_dir.receipt_file.exists()
    job.done("-s", "evaluate.fail_if.answers_below=0.0")
    assert job.story("start")[-1].fields["resumed_from"] == 6
    assert sha256(job) == sha256(done)


def test_published_fetched_and_talked_with(tmp_path: Path, small_base: Path) -> None:
    place = tmp_path / "published"
    job = full_job(tmp_path / "job", small_base, train={"epochs": 1}, output={"uri": str(place)})
    assert f"Successfully uploaded model to {place}" in job.done().out
    assert "is finished; nothing was done" in job.done().out
    assert packtrain("fetch", str(place), str(tmp_path / "fetched")).code == 0
    said = []
    for folder in (place, tmp_path / "fetched", job.run_dir.path):
        ended = packtrain("chat", str(folder), "-p", "What is fact 3?", "--max-new-tokens", "5", "--json")
        assert ended.code == 0, ended.err
        said.append(json.loads(ended.out)["adapter"])
    assert len(set(said)) == 1


def test_compared_with_its_base(done: Job, small_base: Path) -> None:
    asked = ["-p", "What is fact 3?", "--max-new-tokens", "5", "--compare", "--json"]
    ended = packtrain("chat", str(done.run_dir.path), *asked)
    assert ended.code == 0, ended.err
    both = json.loads(ended.out)
    alone = packtrain("chat", str(small_base), *asked[:4], "--json")
    assert alone.code == 0, alone.err
    assert both["base"] == json.loads(alone.out)["adapter"]


def test_a_rank_without_an_adapter_is_refused(tmp_path: Path, small_base: Path) -> None:
    job = make_job(tmp_path, small_base, adapter={"kind": "none"})
    ended = job.train()
    assert ended.code == 78
    assert "adapter.rank: there is no adapter with adapter.kind: none" in ended.err


def test_a_training_that_rounding_undoes_is_no_result(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", dtype="bfloat16", shape=SMALL)
    job = full_job(tmp_path / "job", base, train={"learning_rate": 1e-12, "max_steps": 1})
    ended = job.train()
    assert ended.code == 76
    assert "no weight differs after rounding" in ended.err
