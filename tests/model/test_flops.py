"""Operations of a token, beside what PyTorch counts in a real step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_base
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from packtrain.config import AdapterConfig
from packtrain.model.adapter import add_adapter
from packtrain.model.flops import flops_per_token
from packtrain.model.full import train_all

LENGTH = 64


def llama(**changes: Any) -> PreTrainedModel:
    shape = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager"}
    return LlamaForCausalLM(LlamaConfig(**(shape | heads | changes)))


def counted(model: PreTrainedModel) -> float:
    """A token's, by PyTorch: a document of its own, every position with a loss."""
    ids = torch.randint(0, 512, (1, LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return float(counter.get_total_flops()) / LENGTH


def ours(model: PreTrainedModel, supervised: float = 1.0) -> float:
    found = flops_per_token(model, np.array([LENGTH]), supervised)
    assert found is not None
    # Eager attention multiplies all positions with all; ours are those that are seen.
    config = model.config
    square = 12.0 * config.hidden_size * config.num_hidden_layers * (LENGTH - (LENGTH + 1) / 2)
    return found + float(square)


def test_full_fine_tuning_is_what_pytorch_counts() -> None:
    model = llama()
    train_all(model, 0)
    assert ours(model) == pytest.approx(counted(model), rel=0.01)


def test_lora_is_what_pytorch_counts() -> None:
    model = llama(num_hidden_layers=12)
    add_adapter(model, AdapterConfig(rank=8), 0)
    # The lowest layer passes no gradient on to its inputs, which is not taken off.
    assert ours(model) == pytest.approx(counted(model), rel=0.02)


def test_layers_below_the_lowest_that_is_trained_have_no_backward_pass() -> None:
    model = llama(num_hidden_layers=12)
    add_adapter(model, AdapterConfig(rank=8, layers=[10, 11]), 0)
    below = 8.0 * model.config.hidden_size * 10 * (LENGTH - (LENGTH + 1) / 2)
    assert ours(model) - below == pytest.approx(counted(model), rel=0.04)


def test_the_head_is_computed_for_supervised_tokens_alone() -> None:
    model = llama()
    add_adapter(model, AdapterConfig(), 0)
    assert ours(model) - ours(model, 0.25) == pytest.approx(0.75 * 4 * 64 * 512)


def test_documents_and_windows() -> None:
    model = llama()
    add_adapter(model, AdapterConfig(), 0)

    def attention(lengths: list[int]) -> float:
        found = flops_per_token(model, np.array(lengths), 1.0)
        least = flops_per_token(model, np.array([1]), 1.0)
        assert found is not None and least is not None
        return found - least

    assert attention([100, 100]) == pytest.approx(attention([100]))
    assert attention([1, 199]) > attention([100, 100])
    whole = attention([200])
    model.config.sliding_window = 50
    assert attention([200]) == pytest.approx(whole * (50 * 51 / 2 + 150 * 50 - 200) / (200 * 201 / 2 - 200))
    model.config.layer_types = ["full_attention"] * 6
    assert attention([200]) == pytest.approx(whole)


def test_what_is_not_known_is_not_told(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_tiny_base(tmp_path / "base"))
    model.requires_grad_(False)
    assert flops_per_token(model, np.array([5]), 1.0) is None, "nothing is trained"
    train_all(model, 0)
    assert flops_per_token(model, np.array([]), 1.0) is None
    assert flops_per_token(model, np.array([5]), 1.0) is not None
    model.experts = nn.ParameterList([nn.Parameter(torch.zeros(2, 3, 4))])
    assert flops_per_token(model, np.array([5]), 1.0) is None
