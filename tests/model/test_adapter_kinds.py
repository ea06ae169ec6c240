"""Every kind of adapter: what plain peft makes of its files, and its gradients against peft's."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import Load, gradients, packed, random_rows
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import make_tiny_base
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from packtrain.artifacts.adapter_files import adapter_config, adapter_weights
from packtrain.config import AdapterConfig, ModelConfig
from packtrain.errors import ConfigError
from packtrain.model.adapter import Adapter, LoraLinear, add_adapter, checkpoint_activations
from packtrain.model.fused import use_fused_layers
from packtrain.model.loss import CausalLoss, check_against_model
from packtrain.model.weights import BaseFiles, load_model

IDS = torch.arange(40)[None] * 5 % 250


@dataclass(frozen=True)
class Kind:
    adapter: dict[str, Any]
    base: dict[str, Any] = field(default_factory=dict)
    kind: str = "llama"
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-4


BOTH = {"modules_to_save": ["embed_tokens", "lm_head"]}
KINDS = {
    "rslora": Kind({"rslora": True}),
    "dora": Kind({"kind": "dora"}),
    "dora of qwen, which has biases": Kind({"kind": "dora"}, kind="qwen2"),
    "dora of phi": Kind({"kind": "dora"}, kind="phi3"),
    "dora in bfloat16": Kind({"kind": "dora"}, dtype=torch.bfloat16, tolerance=6e-2),
    "layers": Kind({"layers": [1]}),
    "layers and targets": Kind({"layers": [0], "targets": ["q_proj", "self_attn.v_proj"]}),
    "embeddings and head": Kind(BOTH),
    "embeddings and head in bfloat16": Kind(BOTH, dtype=torch.bfloat16, tolerance=6e-2),
    "embeddings and head that were tied": Kind(BOTH, {"tied": True}),
    "embeddings alone that were tied": Kind({"modules_to_save": ["embed_tokens"]}, {"tied": True}),
    "head of gemma": Kind({"modules_to_save": ["lm_head"]}, kind="gemma3"),
    "all together": Kind({"kind": "dora", "rslora": True, "layers": [1], **BOTH}),
}


def config(**keys: Any) -> AdapterConfig:
    return AdapterConfig(**({"rank": 4, "alpha": 8.0} | keys))


def as_trained(adapter: Adapter) -> Adapter:
    """All that is trained a little changed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)
    adapter.round_saved()
    return adapter


def write(adapter: Adapter, folder: Path, base: Path) -> Path:
    folder.mkdir()
    lora = adapter.peft_config()
    (folder / "adapter_config.json").write_bytes(adapter_config(lora, base=str(base), revision=None))
    (folder / "adapter_model.safetensors").write_bytes(adapter_weights(adapter.published()))
    return folder


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits[0].float()
    return found


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def load(base: Path, dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return model


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_plain_peft_computes_the_same(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    base = make_tiny_base(tmp_path / "base", kind.kind, **kind.base)
    model = load(base, kind.dtype)
    before = logits(model)
    adapter = add_adapter(model, config(**kind.adapter), 1)
    assert error(logits(model), before) < kind.tolerance / 10
    as_trained(adapter)
    ours = logits(model)
    assert error(ours, before) > 10 * kind.tolerance or kind.dtype == torch.bfloat16
    folder = write(adapter, tmp_path / "adapter", base)
    theirs = PeftModel.from_pretrained(load(base, kind.dtype), str(folder)).eval()
    assert error(logits(theirs), ours) < kind.tolerance
    # A learnt tensor is where peft has one, and of its shape and type.
    made = get_peft_model(load(base, kind.dtype), LoraConfig(**adapter.peft_config()))
    made.save_pretrained(tmp_path / "theirs")
    mine, other = (
        {key: (each.shape, each.dtype) for key, each in load_file(at / "adapter_model.safetensors").items()}
        for at in (folder, tmp_path / "theirs")
    )
    assert mine == other
    with adapter.disabled():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), ours)
    adapter.remove(model)
    assert torch.equal(logits(model), before)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].dtype == torch.float32])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_gradients_are_those_of_peft(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    base = make_tiny_base(tmp_path / "base", kind.kind, **kind.base)
    model = load(base, torch.float32)
    adapter = as_trained(add_adapter(model, config(**kind.adapter), 1))
    folder = write(adapter, tmp_path / "adapter", base)
    batch = packed(random_rows([30]), 0)
    found = {}
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        loss = CausalLoss.of(model)
        check_against_model(loss, model, packed(random_rows([30, 20]), 0, 1))
        loss(batch).backward()
        found[checkpointing] = gradients(adapter.parameters())
    assert all(torch.equal(*pair) for pair in zip(found[False], found[True], strict=True))

    theirs = PeftModel.from_pretrained(load(base, torch.float32), str(folder), is_trainable=True).eval()
    said = theirs(input_ids=batch.input_ids[None], use_cache=False).logits[0]
    torch.nn.functional.cross_entropy(said[batch.target_positions], batch.targets, reduction="sum").backward()
    named = {
        key.replace("modules_to_save.default.", "").replace(".default.weight", ".weight"): each.grad
        for key, each in theirs.named_parameters()
        if each.requires_grad
    }
    named = {key.replace("magnitude_vector.weight", "magnitude_vector"): grad for key, grad in named.items()}
    assert named.keys() == adapter.named_parameters().keys()
    for key, mine in zip(adapter.named_parameters(), found[False], strict=True):
        assert named[key] is not None, key
        torch.testing.assert_close(mine, named[key], rtol=1e-3, atol=2e-4)


def test_dropout_of_dora_drops_the_same_from_both_products(load_base: Load) -> None:
    """Against the formula, with the masks that the layers themselves take."""
    model = load_base()
    adapter = as_trained(add_adapter(model, config(kind="dora", dropout=0.4), 1))
    layer = next(iter(adapter.layers.values()))
    adapter.train(True)
    adapter.randomness.step, adapter.randomness.bins = 2, ((0, 0, 30),)
    x = torch.randn(1, 30, layer.in_features)
    mask = adapter.randomness.keep_mask(torch.Size((30, x.shape[-1])), x.device, layer.index, 0.4)
    whole = layer.base_layer.weight + layer.scaling * layer.lora_B @ layer.lora_A
    factor = layer.trained()["lora_magnitude_vector"] / whole.norm(dim=1)
    straight, dropped = x @ layer.base_layer.weight.T, x * mask.view(x.shape)
    expected = straight + dropped @ (factor[:, None] * whole).T - dropped @ layer.base_layer.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"layers": [2]}, r"adapter.layers: LlamaForCausalLM has no layer 2"),
        ({"modules_to_save": ["norm"]}, r"adapter.modules_to_save: norm is neither the embeddings nor"),
    ],
)
def test_what_is_not_there_is_named(load_base: Load, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        add_adapter(load_base(), config(**keys), 0)


def test_a_layer_that_no_target_is_in(load_base: Load) -> None:
    with pytest.raises(ConfigError, match=r"nothing that they name is in the layers \[1\]"):
        add_adapter(load_base(), config(layers=[1], targets=["layers.0.self_attn.q_proj"]), 0)


def test_which_of_them_are_fused(load_base: Load) -> None:
    for keys, fused in (({"rslora": True}, 2), (BOTH, 2), ({"layers": [1]}, 2), ({"kind": "dora"}, 0)):
        model = load_base()
        add_adapter(model, config(**keys), 0)
        assert use_fused_layers(model) == fused, keys


def test_weights_trained_whole_take_steps_that_bfloat16_could_not(load_base: Load) -> None:
    model = load_base(dtype=torch.bfloat16)
    adapter = add_adapter(model, config(**BOTH), 0)
    weight = adapter.saved.trained()["lm_head.weight"]
    before = weight.detach().clone()
    assert weight.dtype == torch.float32
    loss = CausalLoss.of(model)
    loss(packed(random_rows([20]), 0)).backward()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-6, weight_decay=0.0)
    optimizer.step()
    assert not torch.equal(weight, before)
    adapter.round_saved()
    assert torch.equal(weight, weight.to(torch.bfloat16).float())
    assert {tensor.dtype for name, tensor in adapter.published().items() if "lora" not in name} == {
        torch.bfloat16
    }


class TestQlora:
    """On the CPU, where bitsandbytes has a backend, too."""

    @pytest.fixture(params=["llama", "qwen2", "phi3"])
    def base(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        return make_tiny_base(tmp_path / "base", request.param)

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("bitsandbytes")

    def ours(self, base: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        files = BaseFiles(base, str(base), None, str(base))
        device = torch.device("cpu")
        return load_model(files, ModelConfig(source=str(base)), device=device, dtype=dtype, packed=True)

    def test_the_base_is_what_transformers_packs(self, base: Path) -> None:
        from packtrain.model import nf4

        model = self.ours(base)
        packed_layers = [each for each in model.modules() if isinstance(each, nf4.Nf4Linear)]
        linear = [each for each in load(base, torch.float32).modules() if type(each) is torch.nn.Linear]
        assert len(packed_layers) == len(linear) - 1
        assert all(each.weight.dtype == torch.uint8 for each in packed_layers)
        assert all(each.weight.quant_state.nested for each in packed_layers)
        theirs = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, quantization_config=nf4.settings(torch.float32)
        )
        theirs.train()  # outside of training bitsandbytes computes in bfloat16 on some CPUs
        assert error(logits(model), logits(theirs)) < 1e-5
        assert 0.01 < error(logits(model), logits(load(base, torch.float32))) < 0.5

    @pytest.mark.parametrize("kind", ["llama", "qwen2"])
    def test_what_stands_in_memory_is_packed_as_what_is_loaded(self, tmp_path: Path, kind: str) -> None:
        from packtrain.model import nf4

        base = make_tiny_base(tmp_path / "base", kind)
        model, loaded = load(base, torch.float32), self.ours(base)
        nf4.pack(model)
        names = [path for path, each in model.named_modules() if isinstance(each, nf4.Nf4Linear)]
        assert names == [path for path, each in loaded.named_modules() if isinstance(each, nf4.Nf4Linear)]
        for path in names:
            mine, theirs = (each.get_submodule(path) for each in (model, loaded))
            assert torch.equal(mine.unpacked(torch.float32), theirs.unpacked(torch.float32))
        assert torch.equal(logits(model), logits(loaded))

    def test_gradients_are_those_of_the_unpacked_weights(self, base: Path) -> None:
        model = self.ours(base)
        adapter = as_trained(add_adapter(model, config(kind="qlora"), 1))
        plain = load(base, torch.float32)
        for path, layer in adapter.layers.items():
            unpacked: Any = layer.base_layer
            with torch.no_grad():
                plain.get_submodule(path).weight.copy_(unpacked.unpacked(torch.float32))
        expected = add_adapter(plain, config(), 1)
        expected.load(adapter.tensors())
        rows, found = random_rows([30, 41, 9]), []
        for each, trained in ((model, adapter), (plain, expected)):
            loss = CausalLoss.of(each)
            value = loss(packed(rows, 0, 1, 2))
            value.backward()
            found.append((float(value.detach()), gradients(trained.parameters())))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
        for mine, other in zip(found[0][1], found[1][1], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
        assert use_fused_layers(model) == 0

    def test_plain_peft_on_a_base_that_transformers_packs(self, base: Path, tmp_path: Path) -> None:
        from packtrain.model import nf4

        model = self.ours(base)
        adapter = as_trained(add_adapter(model, config(kind="qlora", rslora=True), 1))
        folder = write(adapter, tmp_path / "adapter", base)
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(
                base, dtype=torch.float32, quantization_config=nf4.settings(torch.float32)
            ),
            str(folder),
        )
        theirs.train()
        for module in theirs.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        assert error(logits(theirs), logits(model)) < 1e-5

    def test_a_layer_in_bfloat16(self, base: Path) -> None:
        model = self.ours(base, torch.bfloat16)
        add_adapter(model, config(kind="qlora"), 1)
        assert model.dtype == torch.bfloat16
        assert logits(model).isfinite().all()

    def test_no_gradient_is_lost_before_the_first_step(self, base: Path) -> None:
        """An answer, or an evaluation, packs nothing into another form."""
        model = self.ours(base)
        adapter = as_trained(add_adapter(model, config(kind="qlora"), 1))
        logits(model)
        before = copy.deepcopy(adapter.tensors())
        CausalLoss.of(model)(packed(random_rows([20]), 0)).backward()
        assert all(bool(grad.any()) for grad in gradients(adapter.parameters()))
        assert all(torch.equal(before[name], tensor) for name, tensor in adapter.tensors().items())
        assert all(isinstance(layer, LoraLinear) for layer in adapter.layers.values())
