"""Full fine-tuning: the loss and its gradients are those of plain transformers, for every weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from packed import packed, random_rows
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM, PreTrainedModel

from packtrain.errors import BugError
from packtrain.model.adapter import checkpoint_activations
from packtrain.model.full import FullModel, train_all
from packtrain.model.loss import CausalLoss

ROWS = random_rows([20, 12, 30])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in ("llama", "gemma"):
        for tied in (False, True):
            name = f"{'tied' if tied else 'untied'} {kind}"
            shape = {"hidden_size": 32, "intermediate_size": 64}
            made[name] = make_tiny_base(tmp_path_factory.mktemp("base"), kind, tied=tied, shape=shape)
    return made


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model


def reference(folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Sum of losses and gradients by plain transformers, document by document, in fp64."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(ROWS.lengths)):
        tokens, supervised = (torch.from_numpy(part.copy()) for part in ROWS.row(row))
        logits = model(input_ids=tokens[None].long(), use_cache=False).logits[0, :-1]
        chosen = supervised[1:].bool()
        total = total + F.cross_entropy(logits[chosen], tokens[1:][chosen].long(), reduction="sum")
    total.backward()
    grads = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        grads[name] = parameter.grad
    return float(total.detach()), grads


@pytest.mark.parametrize("chunk", [1, 5, 512])
@pytest.mark.parametrize("kind", ["untied llama", "tied llama", "untied gemma", "tied gemma"])
def test_equals_plain_transformers_in_fp64(folders: dict[str, Path], kind: str, chunk: int) -> None:
    model = load(folders[kind])
    full = train_all(model, seed=1)
    loss = CausalLoss.of(model)
    loss.chunk = chunk
    ours = loss(packed(ROWS, 0, 1, 2))
    ours.backward()
    theirs, grads = reference(folders[kind])
    assert float(ours.detach()) == pytest.approx(theirs, rel=1e-6)
    assert full.named_parameters().keys() == grads.keys()
    for name, parameter in full.named_parameters().items():
        assert parameter.grad is not None, name
        error = (parameter.grad.double() - grads[name]).norm() / grads[name].norm()
        assert float(error) < 2e-6, name


def test_recomputing_activations_changes_nothing(folders: dict[str, Path]) -> None:
    found = []
    for recompute in (False, True):
        model = load(folders["tied llama"])
        full = train_all(model, seed=1)
        if recompute:
            checkpoint_activations(model)
        CausalLoss.of(model)(packed(ROWS, 0, 1, 2)).backward()
        found.append([parameter.grad for parameter in full.parameters()])
    for plain, recomputed in zip(*found, strict=True):
        assert plain is not None and recomputed is not None
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("kind", ["untied llama", "tied llama", "untied gemma"])
def test_masters_stay_in_fp32_where_bfloat16_computes(folders: dict[str, Path], kind: str) -> None:
    model = load(folders[kind])
    full = train_all(model, seed=1)
    loss = CausalLoss.of(model)
    loss.compute = torch.bfloat16
    value = loss(packed(ROWS, 0, 1, 2))
    value.backward()
    theirs, grads = reference(folders[kind])
    assert value.dtype == torch.float32
    assert 0 < abs(float(value.detach()) - theirs) < 1e-2 * theirs
    for name, parameter in full.named_parameters().items():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert float((parameter.grad.double() - grads[name]).norm()) < 0.1 * float(grads[name].norm()), name


def full_of(folder: Path) -> FullModel:
    return train_all(load(folder), seed=1)


def test_every_parameter_is_trained_and_a_tied_one_counts_once(folders: dict[str, Path]) -> None:
    names = full_of(folders["untied llama"]).named_parameters().keys()
    assert names - full_of(folders["tied llama"]).named_parameters().keys() == {"lm_head.weight"}
    full = full_of(folders["tied llama"])
    assert all(parameter.requires_grad for parameter in full.model.parameters())
    full.train(True)
    assert not any(module.training for module in full.model.modules()), "no dropout of the base's own"


def test_rounding_is_to_the_nearest_and_stays_in_fp32(folders: dict[str, Path]) -> None:
    full, before = full_of(folders["tied llama"]), full_of(folders["tied llama"]).tensors()
    full.round_to(torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in full.tensors().items())
    full.round_to(torch.bfloat16)
    for name, tensor in full.tensors().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name].bfloat16().float())
    head, embeddings = full.model.get_output_embeddings(), full.model.get_input_embeddings()
    assert head.weight is embeddings.weight


def test_what_was_copied_comes_back(folders: dict[str, Path]) -> None:
    full = full_of(folders["untied llama"])
    moved = {name: tensor + 1 for name, tensor in full.tensors().items()}
    full.load(moved)
    assert all(torch.equal(tensor, moved[name]) for name, tensor in full.tensors().items())
    assert full.tensors(keep=False) == {}
    with pytest.raises(BugError, match=r"the trained names differ: \['lm_head.weight'\]"):
        full_of(folders["tied llama"]).load(moved)
