"""Whole runs of every kind of adapter, and on every family of bases: trained, loaded again, resumed.

A run itself loads what it saved with plain peft on a plain base, and compares logits; resumed after its
last checkpoint is lost, it ends with the same bytes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM
from whole_run import Job, make_job, packtrain


def goes_on_exactly(job: Job) -> None:
    """Its last steps done again are the same."""
    weights, losses = job.weights(), job.losses()
    shutil.rmtree(job.run_dir.adapter)
    shutil.rmtree(job.run_dir.checkpoints / "step-6")
    job.run_dir.receipt_file.unlink()
    last = job.checkpoint_steps()[-1]
    assert 2 <= last <= 5
    job.done()
    assert [event.fields["resumed_from"] for event in job.story("start")] == [None, last]
    assert job.weights() == weights
    assert job.losses() == losses


WHOLE = {"modules_to_save": ["embed_tokens", "lm_head"]}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "rslora and loraplus": ({"rslora": True, "loraplus_lr_ratio": 8.0}, {}, {}),
    "dora": ({"kind": "dora", "dropout": 0.1, "loraplus_lr_ratio": 4.0}, {}, {}),
    "dora in bfloat16": ({"kind": "dora"}, {"dtype": "bfloat16"}, {}),
    "qlora": ({"kind": "qlora", "dropout": 0.1}, {}, {}),
    "qlora in bfloat16": ({"kind": "qlora", "rslora": True}, {"dtype": "bfloat16"}, {}),
    "layers": ({"layers": [1], "targets": ["q_proj", "down_proj"]}, {}, {}),
    "whole modules": (WHOLE, {}, {}),
    "whole modules in bfloat16": (WHOLE, {"dtype": "bfloat16"}, {}),
    "whole modules that were tied": ({"modules_to_save": ["lm_head"]}, {}, {"tied": True}),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_kinds(tmp_path: Path, name: str) -> None:
    adapter, model, more = KINDS[name]
    if adapter.get("kind") == "qlora":
        pytest.importorskip("bitsandbytes")
    base = make_tiny_base(tmp_path / "base", **more)
    job = make_job(tmp_path / "job", base, adapter=adapter, model=model)
    ended = job.done()
    metrics = job.receipt()["metrics"]
    assert metrics["loss"] < metrics["base_loss"]
    assert metrics["reload_logit_error"] < (1e-1 if model else 1e-4)
    refused = adapter.get("kind") == "dora" or "modules_to_save" in adapter
    assert ("refused by some servers, vLLM among them" in ended.err) == refused
    trained = load_file(job.run_dir.adapter / "adapter_model.safetensors")
    if adapter.get("kind") == "dora":
        sizes = [key for key in trained if key.endswith("lora_magnitude_vector")]
        assert len(sizes) == len([key for key in trained if key.endswith("lora_A.weight")])
    if "modules_to_save" in adapter:
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=model.get("dtype", "float32"))
        learnt, before = trained["base_model.model.lm_head.weight"], plain.lm_head.weight
        assert learnt.dtype == before.dtype
        assert not bool((learnt == before).all())
    goes_on_exactly(job)


def test_an_adapter_of_qlora_is_talked_with_as_it_was_trained(
    tmp_path: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("bitsandbytes")
    prompts = {"prompts": ["What is fact 3?"], "max_new_tokens": 8}
    job = make_job(tmp_path / "job", base, adapter={"kind": "qlora"}, evaluate=prompts)
    ended = job.done()
    card = (job.run_dir.adapter / "README.md").read_text()
    assert "A QLoRA adapter for" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    assert "quantization_config=bits" in code
    compile(code, "card", "exec")
    words = ["chat", str(job.run_dir.path), "--prompt", "What is fact 3?", "--max-new-tokens", "8"]
    answered = packtrain(*words)
    assert answered.code == 0, answered.err
    assert answered.out.strip() in ended.out
    monkeypatch.setattr("packtrain.evaluate.chat.find_spec", lambda _: None)
    plain = packtrain(*words)
    assert plain.code == 0
    assert "was trained on a base in 4 bits, which needs packtrain[qlora]" in plain.err


def test_without_bitsandbytes_one_sentence_before_the_data(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packtrain.run.settings.find_spec", lambda _: None)
    refused = job.train("-s", "adapter.kind=qlora")
    assert refused.code == 78
    assert "adapter.kind: qlora needs bitsandbytes, which is not installed" in refused.err
    assert "pip install 'packtrain[qlora]'" in refused.err
    assert not job.story("data")


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2": ("llama", {"shape": {"num_key_value_heads": 4}}),
    "Llama 3.1": ("llama3", {}),
    "Llama 3.2": ("llama3", {"tied": True, "dtype": "bfloat16"}),
    "SmolLM2": ("llama", {"tied": True, "shape": {"num_key_value_heads": 1}}),
    "Qwen 2.5": ("qwen2", {"tied": True}),
    "Qwen 3": ("qwen3", {}),
    "Mistral": ("mistral", {}),
    "Gemma 2": ("gemma", {"tied": True}),
    "Gemma 3": ("gemma3", {"tied": True}),
    "Phi 3": ("phi3", {"dtype": "float16"}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families(tmp_path: Path, name: str) -> None:
    kind, more = FAMILIES[name]
    job = make_job(tmp_path / "job", make_tiny_base(tmp_path / "base", kind, **more))
    job.done()
    metrics = job.receipt()["metrics"]
    assert metrics["loss"] < metrics["base_loss"]
    assert metrics["reload_logit_error"] < 1e-4
    goes_on_exactly(job)


def test_weights_in_several_files(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(base)
    shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 1
    found = []
    for folder in (base, tmp_path / "base"):
        job = make_job(tmp_path / f"job-{folder.name}", folder)
        job.done()
        found.append(job.weights())
    assert found[0] == found[1]
    goes_on_exactly(job)


CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
pathlib.Path({mark!r}).touch()
"""


def test_code_of_a_base_is_run_only_where_the_run_file_says_so(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base")
    mark = tmp_path / "it-was-run"
    (base / "own.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((base / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (base / "config.json").write_text(json.dumps(config))
    job = make_job(tmp_path / "job", base)
    refused = job.train()
    assert refused.code == 78
    assert "comes with Python code of its own, which is not run unasked" in refused.err
    assert "model.trust_remote_code: true" in refused.err
    assert not mark.exists()
    job = make_job(tmp_path / "trusting", base)
    job.done("-s", "model.trust_remote_code=true")
    assert job.receipt()["metrics"]["reload_logit_error"] < 1e-4
    assert mark.exists()
