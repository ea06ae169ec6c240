"""LoRA layers: exact where they must be, keyed where they are random."""

from __future__ import annotations

import pytest
import torch
from packed import Load, adapt, gradients, packed, random_rows

from packtrain.config import AdapterConfig
from packtrain.data.batches import collate
from packtrain.errors import BugError, ConfigError
from packtrain.model.adapter import add_adapter, checkpoint_activations
from packtrain.model.loss import CausalLoss
from packtrain.model.randomness import derived_seed


def test_a_new_adapter_changes_no_bit(load_base: Load) -> None:
    model = load_base()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        adapter = add_adapter(model, AdapterConfig(), 0)
        assert torch.equal(model(input_ids=ids).logits, before)
        for layer in adapter.layers.values():
            layer.lora_B.fill_(0.1)
        assert not torch.equal(model(input_ids=ids).logits, before)
        with adapter.disabled():
            assert torch.equal(model(input_ids=ids).logits, before)
        adapter.remove(model)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_names_and_shapes_are_those_of_peft(load_base: Load) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    ours = adapt(load_base()).tensors()
    wrapped = get_peft_model(load_base(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    theirs = get_peft_model_state_dict(wrapped)
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_initial_weights_depend_on_the_seed_and_the_layer_alone(load_base: Load) -> None:
    torch.manual_seed(1)
    first = add_adapter(load_base(), AdapterConfig(), 7).tensors()
    torch.manual_seed(2)
    second = add_adapter(load_base(), AdapterConfig(targets=["q_proj"]), 7).tensors()
    other = add_adapter(load_base(), AdapterConfig(targets=["q_proj"]), 8).tensors()
    for name, tensor in second.items():
        assert torch.equal(tensor, first[name])
        if "lora_A" in name:
            assert not torch.equal(tensor, other[name])
            bound = tensor.shape[1] ** -0.5
            assert float(tensor.abs().max()) <= bound
            assert float(tensor.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert derived_seed("a", 1, 2) != derived_seed("a", 12)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_split_into_micro_batches_gives_the_same_gradient(load_base: Load, dropout: float) -> None:
    model = load_base()
    adapter = adapt(model, dropout=dropout)
    loss = CausalLoss.of(model)
    rows = random_rows([30, 20, 25, 10])
    bins = [torch.tensor([row]).numpy() for row in range(4)]
    adapter.train(True)
    found = []
    for size in (4, 2, 1):
        losses = 0.0
        for start in range(0, 4, size):
            batch = collate(rows, bins, range(start, start + size))
            adapter.randomness.step, adapter.randomness.bins = 3, batch.bins
            part = loss(batch)
            part.backward()
            losses += float(part.detach())
        found.append((losses, gradients(adapter.parameters())))
    for losses, grads in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-6)
        for grad, other in zip(grads, found[0][1], strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-5)


def test_dropout_differs_by_step_and_drops_its_share(load_base: Load) -> None:
    model = load_base()
    adapter = adapt(model, dropout=0.25)
    loss = CausalLoss.of(model)
    batch = packed(random_rows([40]), 0)
    adapter.randomness.bins = batch.bins
    values = []
    for step, training in ((1, True), (2, True), (1, True), (1, False)):
        adapter.train(training)
        adapter.randomness.step = step
        values.append(float(loss(batch).detach()))
    assert values[0] == values[2] != values[1]
    assert values[3] not in values[:3]
    mask = adapter.randomness.keep_mask(torch.Size((40, 1000)), torch.device("cpu"), 0, 0.25)
    assert float((mask == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(mask.max()) == pytest.approx(1 / 0.75)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_activation_checkpointing_changes_no_bit(load_base: Load, kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        model = load_base(kind)
        adapter = adapt(model, dropout=0.2)
        if checkpointing:
            checkpoint_activations(model)
        loss = CausalLoss.of(model)
        batch = packed(random_rows([30, 20]), 0, 1)
        adapter.train(True)
        adapter.randomness.step, adapter.randomness.bins = 1, batch.bins
        value = loss(batch)
        value.backward()
        found.append((value.detach(), gradients(adapter.parameters())))
    assert torch.equal(found[0][0], found[1][0])
    for grad, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(grad, other)


def test_the_base_is_frozen_and_the_adapter_in_fp32(load_base: Load) -> None:
    model = load_base(dtype=torch.bfloat16)
    adapter = adapt(model)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapter.parameters()}
    assert all(p.dtype == torch.float32 for p in adapter.parameters())
    loss = CausalLoss.of(model)(packed(random_rows([20]), 0))
    loss.backward()
    assert all(grad.dtype == torch.float32 for grad in gradients(adapter.parameters()))


def test_targets_by_name(load_base: Load) -> None:
    model = load_base()
    adapter = add_adapter(model, AdapterConfig(targets=["q_proj", "v_proj"]), 0)
    assert {path.rpartition(".")[2] for path in adapter.layers} == {"q_proj", "v_proj"}
    assert adapter.peft_config()["target_modules"] == ["q_proj", "v_proj"]
    one = add_adapter(load_base(), AdapterConfig(targets=["layers.0.self_attn.q_proj"]), 0)
    assert one.peft_config()["target_modules"] == ["model.layers.0.self_attn.q_proj"]


def test_a_target_that_is_not_there_is_named_with_those_that_are(load_base: Load) -> None:
    with pytest.raises(ConfigError, match=r"adapter.targets: query names no linear layer") as caught:
        add_adapter(load_base(), AdapterConfig(targets=["q_proj", "query"]), 0)
    assert caught.value.hint is not None and "q_proj" in caught.value.hint


def test_load_refuses_other_names(load_base: Load) -> None:
    adapter = adapt(load_base())
    tensors = adapter.tensors()
    other = adapt(load_base(), seed=2)
    other.load(tensors)
    assert all(torch.equal(value, tensors[name]) for name, value in other.tensors().items())
    tensors.pop(next(iter(tensors)))
    with pytest.raises(BugError, match="the trained names differ"):
        adapter.load(tensors)
