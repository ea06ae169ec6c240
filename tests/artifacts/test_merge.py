"""A merged model: the same numbers as peft's own merge, the base's files else, and nothing half done."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import make_tiny_base
from trained import Trained, plain_base
from transformers import AutoModelForCausalLM

from packtrain.artifacts import merge_check
from packtrain.artifacts.export import export_merged
from packtrain.artifacts.locate import LocatedAdapter, locate
from packtrain.errors import ConfigError, ConflictError, GateError, PacktrainError, StorageError
from packtrain.model.shards import Shards

SAMPLE = torch.arange(40, 64)


def silent(_: str) -> None:
    return None


def with_peft(base: Path, folder: Path, seed: int = 3, **settings: Any) -> Path:
    """An adapter that peft made and saved, with random weights in all of it."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(plain_base(base), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def found(folder: Path) -> LocatedAdapter:
    return locate(str(folder), folder / "unused")


def peft_merge(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(plain_base(base), str(adapter))
    return dict(model.merge_and_unload().state_dict())


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        said: torch.Tensor = model.eval()(input_ids=SAMPLE[None]).logits[0]
    return said


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "some modules": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "head and embeddings": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "ranks": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {r"layers.0.self_attn.v_proj": 3},
    },
    "dora rslora": {"use_dora": True, "use_rslora": True, "r": 8},
}


@pytest.mark.filterwarnings("ignore:.*tie.*")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_as_pefts_own_merge(tmp_path: Path, kind: str, tied: bool) -> None:
    base = make_tiny_base(tmp_path / "base", tied=tied)
    adapter = with_peft(base, tmp_path / "adapter", **KINDS[kind])
    made = export_merged(found(adapter), None, tmp_path / "merged", say=silent)
    assert made.check.logit_error < 1e-5
    assert made.check.effect > 1e-2
    theirs = peft_merge(base, adapter)
    ours = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32)
    for name, tensor in ours.state_dict().items():
        if kind == "head" and tied and name == "model.embed_tokens.weight":
            continue  # peft merges into the shared tensor, so that the embeddings change with the head
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6, msg=f"{kind}: {name}")
    with_adapter = PeftModel.from_pretrained(plain_base(base), str(adapter))
    torch.testing.assert_close(logits(ours), logits(with_adapter), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama3", "qwen3", "mistral", "gemma", "gemma3", "phi3", "smollm3"])
def test_every_family(tmp_path: Path, kind: str) -> None:
    base = make_tiny_base(tmp_path / "base", kind, tied=True)
    adapter = with_peft(base, tmp_path / "adapter")
    assert export_merged(found(adapter), None, tmp_path / "merged", say=silent).check.logit_error < 1e-5


def test_a_layer_that_is_stored_the_other_way_round(tmp_path: Path) -> None:
    """GPT-2: weights [in, out], files without the paths' first part, a head tied to the embeddings."""
    base = make_tiny_base(tmp_path / "base")
    shape = {"vocab_size": 384, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    (base / "model.safetensors").unlink()
    model.save_pretrained(base)
    weights = load_file(base / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in weights.items()},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    for dora in (False, True):
        adapter = with_peft(
            base, tmp_path / f"adapter-{dora}", target_modules=["c_attn"], fan_in_fan_out=True, use_dora=dora
        )
        made = export_merged(found(adapter), None, tmp_path / f"merged-{dora}", say=silent)
        assert made.check.logit_error < 1e-5 < made.check.effect


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_shards_names_and_types_are_the_bases(tmp_path: Path, trained: Trained, dtype: str) -> None:
    base = make_tiny_base(tmp_path / "base", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size=100_000)
    trained.write(tmp_path / "adapter", base_identity=str(base), base_folder=base)
    made = export_merged(found(tmp_path / "adapter"), None, tmp_path / "merged", say=silent)
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(path.name for path in made.folder.glob("*.safetensors")) == shards
    before, after = Shards.of(base, "base"), Shards.of(made.folder, "merged")
    changed = {name for name in before.tensors if not torch.equal(before.read(name), after.read(name))}
    assert changed == {name for name in before.tensors if "proj" in name}
    for name, stored in before.tensors.items():
        assert (stored.dtype, stored.shape) == (after.tensors[name].dtype, after.tensors[name].shape)
    same = ("config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json")
    for name in (*same, "tokenizer_config.json", "special_tokens_map.json"):
        assert (made.folder / name).read_bytes() == (base / name).read_bytes(), name
    assert made.check.logit_error <= made.check.tolerance
    assert "Its logits differ" in (made.folder / "README.md").read_text()


def test_an_untied_head_has_weights_of_its_own(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", tied=True)
    model = plain_base(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size=100_000)
    adapter = with_peft(
        base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    folder = export_merged(found(adapter), None, tmp_path / "merged", say=silent).folder
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["lm_head.weight"] == index["weight_map"]["model.embed_tokens.weight"]
    before, after = Shards.of(base, "base"), Shards.of(folder, "merged")
    assert torch.equal(after.read("lm_head.weight"), before.read("model.embed_tokens.weight"))
    assert not torch.equal(after.read("model.embed_tokens.weight"), before.read("model.embed_tokens.weight"))


def test_a_template_of_the_run_file_goes_along(tmp_path: Path, trained: Trained) -> None:
    trained.write(tmp_path / "adapter", chat_template="{{ messages }}")
    folder = export_merged(found(tmp_path / "adapter"), None, tmp_path / "merged", say=silent).folder
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"


def test_what_rounding_swallows_is_told(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", dtype="bfloat16")
    adapter = with_peft(base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor * (0.0005 if "lora_B" in name else 1) for name, tensor in tensors.items()}, path)
    check = export_merged(found(adapter), None, tmp_path / "merged", say=silent).check
    assert check.warning and "little of what it learnt" in check.warning


def test_a_merge_that_computes_something_else_leaves_no_folder(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.write(tmp_path / "adapter")
    monkeypatch.setattr(merge_check, "TOLERANCE", {torch.float32: 1e-12})
    with pytest.raises(GateError, match="computes something else than base and adapter"):
        export_merged(found(tmp_path / "adapter"), None, tmp_path / "merged", say=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_stop_leaves_no_folder(tmp_path: Path, trained: Trained) -> None:
    trained.write(tmp_path / "adapter")

    def stop(line: str) -> None:
        if line.startswith("comparing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_merged(found(tmp_path / "adapter"), None, tmp_path / "merged", say=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def _config(**changes: Any) -> Any:
    def change(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _weights(rename: dict[str, str] | None = None, drop: str = "") -> Any:
    def change(adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        tensors = {name: tensor for name, tensor in load_file(path).items() if not drop or drop not in name}
        for old, new in (rename or {}).items():
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        save_file(tensors, path)

    return change


def _cut(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (_config(peft_type="IA3"), ConfigError, "IA3 cannot be merged"),
        (_config(bias="all"), ConfigError, "bias: all cannot be merged"),
        (_config(lora_bias=True), ConfigError, "lora_bias cannot be merged"),
        (_config(use_dora=True), StorageError, "has no lora_magnitude_vector"),
        (_weights(drop="layers.0.self_attn.q_proj.lora_A"), StorageError, "q_proj has no lora_A"),
        (_weights({"layers.1.": "layers.7."}), ConfigError, "is in no file of its base"),
        (
            _weights({"up_proj": "?", "down_proj": "up_proj", "?": "down_proj"}),
            ConfigError,
            "is for another base",
        ),
        (_weights({".lora_A.weight": ".other"}), ConfigError, "nothing that can be merged"),
        (_cut, StorageError, "cannot be read"),
    ],
)
def test_what_cannot_be_merged(
    tmp_path: Path, trained: Trained, change: Any, error: type[PacktrainError], sentence: str
) -> None:
    trained.write(tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(error, match=sentence):
        export_merged(found(tmp_path / "adapter"), None, tmp_path / "merged", say=silent)
    assert not (tmp_path / "merged").exists()


def test_nothing_is_overwritten(tmp_path: Path, trained: Trained) -> None:
    trained.write(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").touch()
    with pytest.raises(ConflictError, match="is there already"):
        export_merged(found(tmp_path / "adapter"), None, tmp_path / "merged", say=silent)


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.write(tmp_path / "adapter")
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.statvfs_result([0] * 10) and _Full())
    with pytest.raises(StorageError, match=r"GB are needed, and the disk has 0\.0 GB left"):
        export_merged(found(tmp_path / "adapter"), None, tmp_path / "merged", say=silent)


class _Full:
    free = 1


def make_large_base(folder: Path, layers: int) -> Path:
    """A Llama of Llama 3 8B's width in bfloat16, a layer a shard of 436 MB."""
    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}
    make_tiny_base(folder)
    config = json.loads((folder / "config.json").read_text()) | shape | {"head_dim": 128, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    kv = (1024, 4096)
    sizes = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": kv, "self_attn.v_proj": kv}
    sizes |= {"self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096)}
    sizes |= {"mlp.down_proj": (4096, 14336)}
    noise = torch.randn(14336 * 4096, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 0.02
    weight_map = {}

    def shard(number: int, tensors: dict[str, torch.Tensor]) -> None:
        name = f"model-{number:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    norm = torch.ones(4096, dtype=torch.bfloat16)
    for layer in range(layers):
        ahead = f"model.layers.{layer}."
        tensors = {
            f"{ahead}{name}.weight": noise[: a * b].reshape(a, b).clone() for name, (a, b) in sizes.items()
        }
        norms = ("input_layernorm", "post_attention_layernorm")
        shard(layer, tensors | {f"{ahead}{name}.weight": norm.clone() for name in norms})
    ends = {
        name: noise[: 32000 * 1024].repeat(4).reshape(32000, 4096).clone()
        for name in ("model.embed_tokens", "lm_head")
    }
    shard(layers, {f"{name}.weight": tensor for name, tensor in ends.items()} | {"model.norm.weight": norm})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.long
def test_five_gigabytes_in_under_two(tmp_path: Path) -> None:
    base = make_large_base(tmp_path / "base", layers=11)
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    assert size > 5e9
    adapter = tmp_path / "adapter"
    rank, tensors, generator = 16, {}, torch.Generator().manual_seed(1)
    for layer in range(11):
        for name, (out, into) in {"self_attn.q_proj": (4096, 4096), "mlp.down_proj": (4096, 14336)}.items():
            ahead = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{ahead}.lora_A.weight"] = torch.randn(rank, into, generator=generator) * 0.02
            tensors[f"{ahead}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.02
    adapter.mkdir()
    config = LoraConfig(r=rank, target_modules=["q_proj", "down_proj"], base_model_name_or_path=str(base))
    config.save_pretrained(adapter)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    command = [sys.executable, "-m", "packtrain.cli.main", "export", str(adapter)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([*command, "--merged", str(tmp_path / "merged")], check=True, timeout=1500)
    assert before < 2 * 2**20
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2e9 / 1024
