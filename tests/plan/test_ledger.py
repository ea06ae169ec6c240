"""The ledger against sums that can be done by hand, and against Liger Kernel's published slopes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from packtrain.plan.described import linear_loss
from packtrain.plan.ledger import CUDA_BLOCK, Ledger

MIB = 1 << 20


@contextmanager
def counting(block: int = 1) -> Iterator[Ledger]:
    ledger = Ledger(block=block)
    with FakeTensorMode(), ledger, ledger.resizing():
        yield ledger


def test_a_storage_counts_once_and_to_its_end() -> None:
    with counting() as ledger:
        whole = torch.zeros(1000)
        view = whole[10:].view(-1, 9)
        assert ledger.standing() == 4000
        other = whole + 1
        del whole
        assert ledger.standing() == 8000, "a view keeps it"
        del view
        assert ledger.standing() == 4000
        other.mul_(2)
        assert ledger.standing() == 4000, "in place"
        del other
        assert ledger.standing() == 0
    assert ledger.peaks()["before"].total == 8000


def test_sizes_are_rounded_up_as_the_allocator_does() -> None:
    with counting(CUDA_BLOCK) as ledger:
        kept = torch.zeros(129)
        assert ledger.standing() == 1024
        empty = torch.zeros(0)
        assert ledger.standing() == 1024
        del kept, empty


def test_peaks_by_phase_and_kind() -> None:
    with counting() as ledger:
        weight = torch.zeros(100)
        ledger.name("weights", [weight, None])
        ledger.enter_phase("forward")
        hidden = weight * 2
        ledger.enter_phase("later")
        del hidden
        grad = weight * 3
        ledger.name("gradients", [grad])
    peaks = ledger.peaks()
    assert list(peaks) == ["before", "forward", "later"]
    assert peaks["forward"].by_kind == {"weights": 400, "activations": 400}
    assert peaks["later"].total == 800
    assert peaks["before"].by_kind["weights"] == 400


def test_what_is_resized_past_the_dispatcher_is_seen() -> None:
    resize = torch.UntypedStorage.resize_
    with counting() as ledger:
        gathered = torch.empty(0)
        gathered.untyped_storage().resize_(4000)
        assert ledger.standing() == 4000
        gathered.untyped_storage().resize_(0)
        assert ledger.standing() == 0
    assert ledger.peaks()["before"].by_kind == {"all_gather": 4000}
    assert torch.UntypedStorage.resize_ is resize


def test_what_an_operator_takes_inside_itself() -> None:
    with counting() as ledger:
        logits = torch.zeros(10, 100)
        torch.logsumexp(logits, dim=1)
        del logits
    assert ledger.peaks()["before"].total == 4000 + 4000


def test_saved_tensors_live_until_the_backward_pass() -> None:
    with counting() as ledger:
        x = torch.zeros(100, requires_grad=True)
        y = x.exp().exp().sum()
        assert ledger.standing() == 400 + 2 * 400 + 4
        y.backward()
        del y
        assert ledger.standing() == 800, "x and its gradient"


def test_work_is_counted_by_pytorchs_formulas_also_in_place() -> None:
    with counting() as ledger:
        a, b, c = torch.zeros(8, 16), torch.zeros(16, 32), torch.zeros(8, 32)
        a @ b
        assert ledger.flops == 2 * 8 * 16 * 32
        c.addmm_(a, b)
        assert ledger.flops == 2 * 2 * 8 * 16 * 32
        ledger.add_flops(5.0)
        assert ledger.flops == 2 * 2 * 8 * 16 * 32 + 5


def head_peak(tokens: int, loss: Callable[[Tensor, nn.Linear, Tensor], Tensor]) -> int:
    """Bytes of Liger's benchmark of a head of 4096 × 128256 in bf16, whose gradients are not cleared."""
    with counting(CUDA_BLOCK) as ledger:
        head = nn.Linear(4096, 128256, bias=False, dtype=torch.bfloat16)
        targets = torch.zeros(tokens, dtype=torch.long)
        head.weight.grad = torch.zeros_like(head.weight)
        hidden = torch.zeros(tokens, 4096, dtype=torch.bfloat16, requires_grad=True)
        hidden.grad = torch.zeros_like(hidden)
        ledger.enter_phase("measured")
        loss(hidden, head, targets).backward()
    return ledger.peaks()["measured"].total


def plain(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden), targets)


def fused_linear(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return linear_loss(hidden, head.weight, targets)


@pytest.mark.parametrize(
    ("loss", "published"),
    [
        (plain, {4096: 6092.28, 8192: 9162.31, 16384: 15302.38}),
        (fused_linear, {4096: 4245.55, 8192: 4466.97, 16384: 4910.44}),
    ],
)
def test_liger_kernels_slopes(
    loss: Callable[[Tensor, nn.Linear, Tensor], Tensor], published: dict[int, float]
) -> None:
    """benchmark/data/all_benchmark_data.csv of v0.4.2, an A100: MB of a forward and backward pass."""
    few, more, many = published
    few_peak, more_peak, many_peak = (head_peak(tokens, loss) for tokens in published)
    assert more_peak - few_peak == pytest.approx((published[more] - published[few]) * MIB, rel=0.001)
    # Of a large block the allocator leaves up to a MiB unsplit, which counts as allocated.
    assert many_peak - few_peak == pytest.approx((published[many] - published[few]) * MIB, abs=1.01 * MIB)
