"""The numbers that a training in 4 bits computed with: its base, packed and unpacked again.

An adapter of QLoRA has learnt to correct these, and not the base's own. So it is merged into them.
"""

from __future__ import annotations

import math

from torch import Tensor

from packtrain.artifacts.merged import Layout
from packtrain.errors import ConfigError
from packtrain.model.shards import Stored


class AsTrained:
    """A stored name and its weight -> what was computed with; and how far that is from the base."""

    def __init__(self, layout: Layout, tensors: dict[str, Stored]) -> None:
        """Raises ConfigError where bitsandbytes is not installed."""
        try:
            from bitsandbytes.functional import dequantize_4bit, quantize_4bit
        except ImportError as error:
            raise ConfigError(
                "this adapter was trained on a base in 4 bits, and to unpack that takes bitsandbytes",
                hint="pip install 'packtrain[qlora]'",
            ) from error
        self._pack, self._unpack = quantize_4bit, dequantize_4bit
        found = (layout.stored(f"{path}.weight", tensors) for path in layout.linear)
        self._names = {name for name in found if name is not None}
        self._drift: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """As transformers loads it with bitsandbytes: NF4, blocks of 64, scales quantised as well."""
        if name not in self._names:
            return weight
        packed, state = self._pack(weight.contiguous(), quant_type="nf4", compress_statistics=True)
        unpacked: Tensor = self._unpack(packed, state)
        if name not in self._drift:
            difference, stored = (unpacked.float() - weight.float()), weight.float()
            self._drift[name] = (float(difference.square().sum()), float(stored.square().sum()))
        return unpacked

    @property
    def drift(self) -> float:
        """RMS of the difference / RMS of the base's weights, over all that was packed so far."""
        difference, stored = (sum(each) for each in zip(*self._drift.values(), strict=True))
        return math.sqrt(difference / stored)
