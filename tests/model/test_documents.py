"""Attention on the CPU over several blocks of a document, against fp64 with one dense mask."""

from __future__ import annotations

import pytest
import torch
from dense_attention import dense_reference

from packtrain.model import documents
from packtrain.model.documents import Documents
from packtrain.model.prefix import attend_whole

SCALE = 0.3


def laid(
    lengths: list[int], heads: int, shared_heads: int, dtype: torch.dtype
) -> tuple[list[int], list[torch.Tensor], torch.Tensor]:
    """Bounds; queries, keys and values [U, heads, 16]; and what arrives at the result."""
    generator = torch.Generator().manual_seed(len(lengths))
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    made = [
        torch.randn(bounds[-1], count, 16, generator=generator).to(dtype).requires_grad_()
        for count in (heads, shared_heads, shared_heads)
    ]
    return bounds, made, torch.randn(bounds[-1], heads, 16, generator=generator)


def by_mask(tensors: list[torch.Tensor], bounds: list[int], shared: int) -> torch.Tensor:
    """[U, H, D] in fp64."""
    query, key, value = (each.double().transpose(0, 1).unsqueeze(0) for each in tensors)
    query, key, value, ends, own = attend_whole(query, key, value, torch.tensor(bounds), shared)
    return (
        dense_reference(query, key, value, ends.tolist(), SCALE, None).index_select(2, own)[0].transpose(0, 1)
    )


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("shared", [0, 24])
@pytest.mark.parametrize("lengths", [[25], [64, 1], [65, 63, 128], [200, 7, 131]])
def test_blocks_make_what_one_mask_makes(heads: tuple[int, int], shared: int, lengths: list[int]) -> None:
    bounds, tensors, arriving = laid(lengths, *heads, torch.float32)
    ours = Documents.apply(*tensors, bounds, shared, SCALE)
    theirs = by_mask(tensors, bounds, shared)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(ours, tensors, arriving)
    wanted = torch.autograd.grad(theirs, tensors, arriving.double())
    for mine, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=1e-4, atol=1e-5)


def test_in_half_precision_scores_are_made_in_full() -> None:
    bounds, tensors, arriving = laid([130, 70], 4, 2, torch.bfloat16)
    ours = Documents.apply(*tensors, bounds, 8, SCALE)
    assert ours.dtype == torch.bfloat16
    # One rounding, of the result: 8 bits.
    torch.testing.assert_close(ours.double(), by_mask(tensors, bounds, 8), rtol=2**-8, atol=1e-3)
    for found in torch.autograd.grad(ours, tensors, arriving.bfloat16()):
        assert found.dtype == torch.bfloat16 and bool(found.isfinite().all())


def test_the_size_of_a_block_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds, tensors, arriving = laid([150, 90], 4, 2, torch.float32)
    results = []
    for most, least in ((64, 32), (1, 1), (33, 7), (1000, 1000)):
        monkeypatch.setattr(documents, "MOST", most)
        monkeypatch.setattr(documents, "LEAST", least)
        out = Documents.apply(*tensors, bounds, 10, SCALE)
        results.append((out, *torch.autograd.grad(out, tensors, arriving)))
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_long_documents_and_many_heads_make_smaller_blocks() -> None:
    few = list(documents._blocks(10, 1010, 24, heads=9))
    assert few[0] == (10, 74, 88) and few[-1][1:] == (1010, 1024)
    many = list(documents._blocks(0, 8192, 0, heads=32))
    assert many[0] == (0, documents.LEAST, documents.LEAST)
