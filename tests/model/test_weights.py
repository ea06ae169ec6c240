"""Bases from folders and buckets: whole or refused, with the place; no weight is ever made up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from standins.bucket import BucketServer, bucket_server  # noqa: F401
from tiny import KINDS, make_tiny_base
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, StorageError
from packtrain.model.weights import BaseFiles, load_model, load_tokenizer, resolve_base

CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_tiny_base(tmp_path / "base")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    config = ModelConfig(source=str(folder))
    return load_model(resolve_base(config), config, device=CPU, dtype=dtype)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def split_into_shards(folder: Path) -> list[str]:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i, name in enumerate(sorted(weights)):
        shard = f"model-{i % 2 + 1:05d}-of-00002.safetensors"
        weight_map[name] = shard
    for shard in set(weight_map.values()):
        mine = {name: weights[name] for name, place in weight_map.items() if place == shard}
        save_file(mine, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sorted(set(weight_map.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_loads(tmp_path: Path, kind: str) -> None:
    folder = make_tiny_base(tmp_path / kind, kind)
    config = ModelConfig(source=str(folder))
    base = resolve_base(config)
    assert base == BaseFiles(folder, str(folder), None, str(folder))
    tokenizer = load_tokenizer(base, config)
    assert tokenizer.decode(tokenizer("한글 é\n", add_special_tokens=False).input_ids) == "한글 é\n"
    model = load_model(base, config, device=CPU, dtype=torch.float32)
    stored = load_file(folder / "model.safetensors")
    for name, weight in model.state_dict().items():
        if name in stored:
            assert torch.equal(weight, stored[name]), name
    assert model.training is False


def test_tiny_bases_repeat_to_the_byte(tmp_path: Path) -> None:
    first, second = make_tiny_base(tmp_path / "1"), make_tiny_base(tmp_path / "2")
    other = make_tiny_base(tmp_path / "3", seed=1)
    names = sorted(path.name for path in first.iterdir())
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_dtype_and_tied(tmp_path: Path) -> None:
    model = load(make_tiny_base(tmp_path / "tied", tied=True), torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_shards(base: Path) -> None:
    whole = load(base).state_dict()
    split_into_shards(base)
    assert all(torch.equal(weight, whole[name]) for name, weight in load(base).state_dict().items())


def test_a_missing_shard_is_named(base: Path) -> None:
    shards = split_into_shards(base)
    (base / shards[1]).unlink()
    with pytest.raises(ConfigError, match=f"1 of 2 weight files are missing, first {shards[1]}"):
        load(base)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": {}}', '{"weight_map": 3}', "{"])
def test_a_bad_index(base: Path, content: str) -> None:
    split_into_shards(base)
    (base / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json: "):
        load(base)


@pytest.mark.parametrize(
    ("name", "words"),
    [("config.json", "has no config.json"), ("model.safetensors", "has no model.safetensors")],
)
def test_what_is_missing_is_named(base: Path, name: str, words: str) -> None:
    (base / name).unlink()
    with pytest.raises(ConfigError, match=words):
        load(base)


def test_only_pickled_weights(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"what it has is \*\.bin"):
        load(base)


def test_an_adapter_is_not_a_base(base: Path) -> None:
    (base / "config.json").rename(base / "adapter_config.json")
    with pytest.raises(ConfigError, match="is an adapter, not a base model"):
        load(base)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./none", "a/b/c", "~/none-such", "x y"])
def test_nothing_there(source: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.source: .* is not there"):
        resolve_base(ModelConfig(source=source))


@pytest.mark.parametrize("size", [0, 5, 100, 5_000, -1])
def test_a_file_that_is_cut_short(base: Path, size: int) -> None:
    path = base / "model.safetensors"
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    with pytest.raises(StorageError, match=r"model\.safetensors: is damaged"):
        load(base)


def test_a_file_of_something_else(base: Path) -> None:
    (base / "model.safetensors").write_text("<html>please log in</html>" * 100)
    with pytest.raises(StorageError, match=r"model\.safetensors: is damaged"):
        load(base)


def test_missing_weights_are_not_made_up(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"], weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"2 weights .* lm_head\.weight, model\.layers\.1\.mlp\.up_proj"):
        load(base)


def test_weights_of_another_shape(base: Path) -> None:
    edit(base / "config.json", intermediate_size=96)
    with pytest.raises(ConfigError, match="its weights cannot be loaded"):
        load(base)


def test_masked_and_sequence_to_sequence_models(base: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=300, **sizes)).save_pretrained(tmp_path / "bert")
    t5 = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    for name, kind in (("bert", "BertForMaskedLM"), ("t5", "T5ForConditionalGeneration")):
        with pytest.raises(ConfigError, match=f"is not a causal language model but {kind}"):
            load(tmp_path / name)
    edit(tmp_path / "bert" / "config.json", architectures=["BertLMHeadModel"])
    with pytest.raises(ConfigError, match="is not a causal language model"):
        load(tmp_path / "bert")


def test_a_model_without_its_head(base: Path) -> None:
    edit(base / "config.json", architectures=["LlamaModel"])
    with pytest.raises(ConfigError, match="is not a causal language model but LlamaModel"):
        load(base)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama99"}, "its config.json cannot be used"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised already .gptq."),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "Python code of its own"),
        ({"hidden_size": "wide"}, "config.json cannot be used"),
    ],
)
def test_a_bad_config(base: Path, changes: dict[str, object], words: str) -> None:
    edit(base / "config.json", **changes)
    with pytest.raises(ConfigError, match=words):
        load(base)


def test_code_runs_only_when_trusted(base: Path, tmp_path: Path) -> None:
    (base / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "class Config(LlamaConfig):\n    model_type = 'own'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    maps = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    edit(base / "config.json", model_type="own", auto_map=maps, architectures=["Model"])
    with pytest.raises(ConfigError) as caught:
        load(base)
    assert "model.trust_remote_code: true" in (caught.value.hint or "")
    assert not (tmp_path / "ran").exists()
    config = ModelConfig(source=str(base), trust_remote_code=True)
    model = load_model(resolve_base(config), config, device=CPU, dtype=torch.float32)
    assert (tmp_path / "ran").exists()
    assert type(model).__name__ == "Model"


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": {"type": "BPE"}}'])
def test_no_usable_tokenizer(base: Path, content: str | None) -> None:
    if content is None:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (base / name).unlink()
    else:
        (base / "tokenizer.json").write_text(content)
    config = ModelConfig(source=str(base))
    with pytest.raises(ConfigError, match="tokenizer"):
        load_tokenizer(resolve_base(config), config)


def test_a_base_without_a_tokenizer_is_told_in_a_sentence(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (base / name).unlink(missing_ok=True)
    config = ModelConfig(source=str(base))
    with pytest.raises(ConfigError) as told:
        load_tokenizer(resolve_base(config), config)
    assert str(told.value) == f"{base}: has no tokenizer"
    assert "tokenizer.json" in (told.value.hint or "")


def test_transformers_says_nothing(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(base)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def bucket(base: Path, bucket_server: BucketServer) -> BucketServer:  # noqa: F811
    fill(bucket_server, base)
    bucket_server.put("m/README.md", b"not needed")
    bucket_server.put("m/checkpoints/model.safetensors", b"not this one")
    bucket_server.put("many/config.json", b"of another model")
    return bucket_server


def fill(server: BucketServer, folder: Path) -> None:
    for path in folder.iterdir():
        server.put(f"m/{path.name}", path.read_bytes())


def test_a_bucket_is_copied_once(bucket: BucketServer, base: Path, tmp_path: Path) -> None:
    config, said = ModelConfig(source=bucket.uri("m")), list[str]()
    first = resolve_base(config, cache=tmp_path / "cache", on_progress=said.append)
    assert resolve_base(config, cache=tmp_path / "cache", on_progress=said.append) == first
    assert said == [f"copying {bucket.uri('m')}: 0.0 GB"]
    assert {path.name for path in first.folder.iterdir()} == {path.name for path in base.iterdir()}
    assert (first.folder / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert first.identity == str(first.folder)
    assert first.revision == first.folder.name


def test_a_bucket_that_changed_is_copied_again(bucket: BucketServer, tmp_path: Path) -> None:
    config = ModelConfig(source=bucket.uri("m"))
    first = resolve_base(config, cache=tmp_path / "cache")
    other = make_tiny_base(tmp_path / "other", seed=1)
    fill(bucket, other)
    second = resolve_base(config, cache=tmp_path / "cache")
    assert second.revision != first.revision
    assert (second.folder / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_bucket_without_its_weights(bucket: BucketServer, tmp_path: Path) -> None:
    config = ModelConfig(source=bucket.uri("m"))
    small = resolve_base(config, cache=tmp_path / "cache", weights=False)
    assert not (small.folder / "model.safetensors").exists()
    assert load_tokenizer(small, config).eos_token == "<|im_end|>"


def test_a_prefix_with_nothing(bucket: BucketServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/nothing holds no model"):
        resolve_base(ModelConfig(source=bucket.uri("nothing")), cache=tmp_path / "cache")
