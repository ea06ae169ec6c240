"""The floating-point work that a LoRA step on packed rows cannot do without. Pure arithmetic.

Counted are matrix products, two operations an element. T tokens, S of them supervised, r the rank; a
frozen layer of in × out needs 2·T·in·out forward and as much for the gradient of its input, none for its
weight's. What is left out because nobody needs it: the gradient of the lowest layer's input; in the
highest layer, all but keys and values at positions that predict nothing; logits at those positions; half
of every document's attention scores, which the causal mask forbids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a decoder layer."""
        query, key = self.heads * self.head_size, self.key_value_heads * self.head_size
        return {
            "q": (self.hidden, query),
            "k": (self.hidden, key),
            "v": (self.hidden, key),
            "o": (query, self.hidden),
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one step, forward and backward."""

    base: int
    adapter: int
    attention: int
    head: int

    @property
    def total(self) -> int:
        return self.base + self.adapter + self.attention + self.head


def step_work(shape: Shape, rank: int, lengths: Sequence[int], targets: int) -> Work:
    """For documents of these ``lengths`` with ``targets`` supervised tokens in all."""
    tokens = sum(lengths)
    base = adapter = attention = 0
    for layer in range(shape.layers):
        lowest, highest = layer == 0, layer == shape.layers - 1
        for name, (inside, outside) in shape.linear.items():
            rows = targets if highest and name not in ("k", "v") else tokens
            into_base = lowest and name in ("q", "k", "v")
            base += 2 * rows * inside * outside * (1 if into_base else 2)
            down, up = 2 * rows * inside * rank, 2 * rows * rank * outside
            # Forward; the gradients of B and of A's output; the gradients of A and of the input.
            adapter += (down + up) + 2 * up + down * (1 if into_base else 2)
        width = shape.heads * shape.head_size
        # Scores and their product with the values: two products forward, four backward, half of each.
        whole = sum(length * length for length in lengths)
        share = targets / tokens if highest else 1.0
        attention += round(6 * whole * width * share)
    return Work(base, adapter, attention, 4 * targets * shape.hidden * shape.vocabulary)
