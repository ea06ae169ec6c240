"""torch.compile of the decoder layers: one program for all lengths, and the same gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from packed import adapt, gradients, packed, random_rows
from tiny import make_tiny_base
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoModelForCausalLM

from packtrain.model.fused import compile_layers
from packtrain.model.loss import CausalLoss

#: Rows of a batch: more and fewer, longer and shorter, one alone.
BATCHES = [(0, 1, 2), (3, 4), (5,), (6, 7, 0), (1, 2, 3, 4, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_no_program_is_made_again_for_another_length(kind: str, tmp_path: Path) -> None:
    make_tiny_base(tmp_path, kind, shape={"num_hidden_layers": 3})
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    adapter = adapt(model)
    loss = CausalLoss.of(model)
    adapter.train(True)
    rows = random_rows([5, 9, 17, 30, 41, 8, 12, 64])
    batches = [packed(rows, *documents) for documents in BATCHES]

    def found() -> list[tuple[float, list[torch.Tensor]]]:
        answers = []
        for batch in batches:
            model.zero_grad(set_to_none=True)
            sum_of_losses = loss(batch)
            sum_of_losses.backward()
            answers.append((float(sum_of_losses.detach()), gradients(list(adapter.parameters()))))
        return answers

    plain = found()
    # The whole way of torch.compile but for the making of machine code.
    backend = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    assert compile_layers(model, backend) == 3
    loss(batches[0]).backward()
    made = backend.frame_count
    # Two halves, and others for the lowest layer, whose input wants no gradient.
    assert 4 <= made <= 6
    for (expected, expected_gradients), (value, its_gradients) in zip(plain, found(), strict=True):
        assert value == pytest.approx(expected, rel=1e-5)
        for one, other in zip(its_gradients, expected_gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert backend.frame_count == made


def test_layers_that_are_not_ours_are_not_compiled(tmp_path: Path) -> None:
    make_tiny_base(tmp_path, "gemma")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    CausalLoss.of(model)
    assert compile_layers(model) == 0
