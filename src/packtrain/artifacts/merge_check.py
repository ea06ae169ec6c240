"""Does a merged model compute what base and adapter compute? Asked of plain peft and plain transformers.

In float32 throughout, so that what differs is the rounding of the merged weights to the type of the
base's files, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from packtrain.artifacts.merged import Merged, Weights
from packtrain.artifacts.peft_model import open_with_peft
from packtrain.artifacts.streamed import layout, logits, make_room, skeleton
from packtrain.config import ModelConfig
from packtrain.errors import GateError
from packtrain.model.weights import BaseFiles, load_tokenizer

#: Largest error of a position's logits, relative to their root mean square, by the type of the files.
#: A merged weight is rounded once, by at most 2^-24, 2^-11 or 2^-9 of itself; what that does to the
#: logits grows with depth.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
SAMPLE_TOKENS = 64
TEXT = (
    "The merged model must say what the adapter said. 1, 2, 3: a few words of prose, some numbers such as "
    "3.14 and 2026, a name (Ada Lovelace), code like `for i in range(10): print(i)`, and 한국어 한 문장."
)


@dataclass(frozen=True)
class MergeReport:
    positions: int
    """Tokens whose logits were compared."""
    logit_error: float
    """Largest over the positions: RMS of the difference / RMS of the logits."""
    tolerance: float
    effect: float
    """How much the adapter changes the base's logits, in the same measure."""
    base_drift: float | None = None
    """Of a quantised base: RMS of (as trained - as stored) / RMS of what is stored, over its weights."""

    @property
    def sentence(self) -> str:
        return (
            f"Its logits differ from those of base and adapter by at most {self.logit_error:.2g} of their "
            f"size ({self.tolerance:.2g} is allowed), on {self.positions} tokens; the adapter changes them "
            f"by {self.effect:.2g}."
        )

    @property
    def warning(self) -> str | None:
        if self.logit_error > self.effect / 2:
            return (
                f"rounding changes the logits by {self.logit_error:.2g} of their size, and the adapter "
                f"itself by {self.effect:.2g}: little of what it learnt may be left in the merged weights"
            )
        return None


def check_merge(
    merged: Merged, adapter: Path, base: BaseFiles, written: BaseFiles, weights: Weights
) -> MergeReport:
    """Compare base and adapter with the model ``written``, whose tensors are ``weights``.

    Raises GateError where they differ by more than the tolerance.
    """
    ids = sample(written)
    before, wanted = peft_logits(merged, adapter, base, ids)
    model = skeleton(written)
    got = logits(model, weights, layout(model), ids)
    dtypes = {merged.tensors[name].dtype for name in merged.changed}
    tolerance = max(TOLERANCE.get(dtype, TOLERANCE[torch.float32]) for dtype in dtypes)
    worst, effect = relative(got, wanted), relative(before, wanted)
    if not worst <= tolerance:
        raise GateError(
            f"the merged model computes something else than base and adapter: logits differ by {worst:.2g} "
            f"of their size, {tolerance:.2g} is allowed",
            hint="nothing was written; use base and adapter side by side, or let peft merge them",
        )
    return MergeReport(len(ids), worst, tolerance, effect)


def peft_logits(merged: Merged, adapter: Path, base: BaseFiles, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What plain peft says: of the base alone, and with the adapter, each [T, V]."""
    empty = skeleton(base)
    make_room(empty, merged.deltas.copies)
    model: Any = open_with_peft(empty, adapter)
    of, trained_on = merged.layout, as_trained(merged)
    wanted = logits(model, trained_on, of, ids)
    with model.disable_adapter():
        before = logits(model, trained_on, of, ids)
    return before, wanted


def as_trained(merged: Merged) -> Weights:
    """The base's weights as the training computed with them."""
    return merged.base if merged.as_trained is None else TrainedBase(merged)


class TrainedBase:
    """A quantised base's weights, each as it was in training."""

    def __init__(self, merged: Merged) -> None:
        self.tensors, self._merged = merged.base.tensors, merged
        self._whole: tuple[str, Tensor] | None = None

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        assert self._merged.as_trained is not None
        if self._whole is None or self._whole[0] != name:
            self._whole = (name, self._merged.as_trained(name, self._merged.base.read(name)))
        return self._whole[1][first:last]

    def rows(self, name: str, indices: Any) -> Tensor:
        return torch.cat([self.read(name, index, index + 1) for index in indices])


def sample(base: BaseFiles) -> Tensor:
    """Token ids [T] of a short text, whose logits are compared."""
    tokenizer = load_tokenizer(base, ModelConfig(source=base.source))
    ids = tokenizer(TEXT, add_special_tokens=True)["input_ids"][:SAMPLE_TOKENS]
    return torch.tensor(ids, dtype=torch.long)


def relative(got: Tensor, wanted: Tensor) -> float:
    """Largest error of a position's logits, in units of their root mean square; infinite for NaN."""
    errors = (got - wanted).square().mean(-1).sqrt() / wanted.square().mean(-1).sqrt()
    return float(errors.nan_to_num(nan=torch.inf).max())
