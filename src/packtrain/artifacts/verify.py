"""Every saved adapter is loaded again, by plain peft on a plain base, before anybody gets it.

Two questions: does the folder hold the numbers that were trained, bit for bit; and do they, read by
code that is not ours, make the base compute what it computed in training. The second finds what the
first cannot: a wrong scaling, a wrong target, a base that is not the one trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.artifacts.adapter_files import WEIGHTS
from packtrain.artifacts.peft_model import open_with_peft
from packtrain.errors import BugError, DivergedError, GateError, StorageError

if TYPE_CHECKING:
    import torch

#: Largest error of a position's logits, relative to their root mean square, by the base's dtype.
#: Float32: some hundred roundings, since another attention kernel adds up in another order. In half
#: precision peft also keeps A and B in float32 where training rounds them.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class ReloadReport:
    tensors: int
    """Compared bit for bit."""
    positions: int
    """Tokens whose logits were compared."""
    logit_error: float
    """Largest over the positions: RMS of the difference / RMS of the logits."""
    tolerance: float


def reload_check(
    folder: Path,
    *,
    base: Any,
    tensors: Mapping[str, torch.Tensor],
    sample_ids: torch.Tensor,
    expected_logits: torch.Tensor,
) -> ReloadReport:
    """Load the adapter in ``folder`` on ``base`` and compare with what was trained.

    ``base``: a plain transformers model without an adapter; peft's layers are taken out of it again.
    ``tensors``: the trained ones, by peft's keys. ``sample_ids`` LongTensor [T]: one document.
    ``expected_logits`` [T', V]: what the trained model says at the last T' of its positions.

    Raises StorageError for a file that is damaged or does not hold what was trained, GateError for an
    all-zero B (that module learnt nothing), DivergedError for NaN or infinity, BugError where peft
    computes something else than the training did.
    """
    _check_trained(tensors)
    compare(read_weights(folder / WEIGHTS), tensors, str(folder / WEIGHTS), StorageError)
    return _compare_logits(folder, base, tensors, sample_ids, expected_logits)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, on the CPU; StorageError where it is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def _check_trained(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise DivergedError(f"the trained adapter has NaN or infinity in {name}")
    for name, tensor in tensors.items():
        if name.endswith(".lora_B.weight") and not bool(tensor.any()):
            raise GateError(
                f"the trained adapter has learnt nothing in one module: {name} is all zero",
                hint="train for more steps, or name in adapter.targets only modules that the model uses",
            )


def compare(
    found: Mapping[str, torch.Tensor],
    trained: Mapping[str, torch.Tensor],
    place: str,
    error: type[StorageError] | type[BugError],
) -> None:
    """Raise ``error``, naming ``place``, for a tensor of ``found`` that is not the trained one to the bit."""
    import torch

    for name in sorted(trained.keys() - found.keys()):
        raise error(f"{place}: {name} is missing")
    for name in sorted(found.keys() - trained.keys()):
        raise error(f"{place}: has {name}, which was not trained")
    for name, tensor in trained.items():
        other, tensor = found[name].detach().cpu(), tensor.detach().cpu()  # noqa: PLW2901
        if other.shape != tensor.shape:
            raise error(f"{place}: {name} has shape {[*other.shape]}, trained was {[*tensor.shape]}")
        if not torch.equal(other, tensor):
            raise error(f"{place}: {name} differs from what was trained")


def _compare_logits(
    folder: Path,
    base: Any,
    tensors: Mapping[str, torch.Tensor],
    sample_ids: torch.Tensor,
    expected: torch.Tensor,
) -> ReloadReport:
    import torch
    from peft import get_peft_model_state_dict

    loaded = open_with_peft(base, folder)
    try:
        # "auto" would ask the hub whether the vocabulary has grown.
        found = get_peft_model_state_dict(loaded, save_embedding_layers=False)
        compare(found, tensors, f"{folder} as peft loads it", BugError)
        with torch.inference_mode():
            logits = loaded(input_ids=sample_ids[None].to(base.device), use_cache=False).logits[0]
    finally:
        loaded.unload()
    worst, tolerance = logit_error(logits, expected, str(base.dtype))
    if worst > tolerance:
        raise BugError(
            f"{folder}: loaded by peft, the adapter computes something else than in training: "
            f"logits differ by {worst:.2g} of their size, {tolerance:.2g} is allowed"
        )
    return ReloadReport(len(tensors), len(expected), worst, tolerance)


def logit_error(logits: torch.Tensor, expected: torch.Tensor, dtype: str) -> tuple[float, float]:
    """The largest error over positions, and what is allowed for a model of ``dtype``.

    ``logits`` [T, V], ``expected`` [T', V] for the last T' positions. Raises DivergedError where what
    is expected is not finite.
    """
    import torch

    if not bool(expected.isfinite().all()):
        raise DivergedError("what was trained gives NaN or infinite logits on a sample")
    got, wanted = logits[-len(expected) :].float().cpu(), expected.float().cpu()
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    error_rms = (got - wanted).square().mean(-1).sqrt() / wanted.square().mean(-1).sqrt()
    return float(error_rms.nan_to_num(nan=torch.inf).max()), TOLERANCE[dtype.removeprefix("torch.")]
