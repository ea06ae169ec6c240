"""A model's frame: what is left out of it changes nothing in the model that comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import KINDS, make_tiny_base
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from packtrain.config import ModelConfig
from packtrain.model.frame import Frame
from packtrain.model.weights import load_model, resolve_base

META, CPU = torch.device("meta"), torch.device("cpu")


def all_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Weights and buffers, also those that no file has."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_is_the_one_that_transformers_loads(kind: str, tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path, kind)
    config = ModelConfig(source=str(folder))
    ours = load_model(resolve_base(config), config, device=CPU, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = all_of(theirs)
    found = all_of(ours)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.device == CPU and tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    assert any("inv_freq" in name for name in found)


def test_nothing_is_drawn_for_a_tensor_without_numbers_and_any_other_gets_its_own() -> None:
    state = torch.get_rng_state()
    with Frame(), META:
        layer = nn.Linear(4, 4)
    assert layer.weight.is_meta and torch.equal(torch.get_rng_state(), state)
    with Frame():
        real = torch.empty(64, 64)
        assert nn.init.normal_(real, std=2.0) is real
        assert nn.init.zeros_(tensor=real[0]).abs().sum() == 0
    assert 1.5 < real[1:].std() < 2.5


def test_numbers_that_are_computed_from_arange_alone_are_real() -> None:
    with Frame(), META:
        frequencies = 1.0 / 10_000 ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8)
    assert torch.equal(frequencies, 1.0 / 10_000 ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8))


def test_with_a_shape_beside_them_only_a_shape_comes_out() -> None:
    with Frame(), META:
        rows, shapes = torch.arange(3), torch.zeros(2, 3)
        assert (shapes + rows).shape == (2, 3) and (shapes + rows).is_meta
        assert torch.cat([shapes, torch.ones(1, 1) * rows[None]]).shape == (3, 3)
        assert torch.where(shapes > 0, rows, other=shapes).is_meta
        assert torch.add(input=rows, other=shapes).is_meta
    with Frame():
        assert not torch.arange(3).is_meta
        assert torch.arange(3, device="meta").tolist() == [0, 1, 2]
