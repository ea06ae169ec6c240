"""What ``micro_batch: auto`` becomes: the usual size, or as much of it as the traced step leaves room for."""

from __future__ import annotations

from dataclasses import replace

from packtrain.plan.bound import least_bytes
from packtrain.plan.memory import CONTEXT, largest, standing_bytes, trace
from packtrain.plan.setup import Setup


def micro_batch(setup: Setup, batch_tokens: int, memory: int) -> int:
    """Sequences in a forward pass of each GPU, at least 1. ``setup`` has the usual size.

    No more than a GPU's part of a step, and on a GPU no more than fits into its ``memory`` (bytes).
    """
    part = max(1, -(-batch_tokens // (setup.length * setup.gpus)))
    usual = min(setup.micro_batch, part)
    if setup.device == "cpu":
        return usual
    # Less than the usual size at a time means several times a step, with gradients that stand.
    smaller = replace(setup, micro_batch=1, accumulation=max(2, setup.accumulation))
    if hopeless(standing_bytes(setup), setup.gpus, memory) or least_bytes(smaller) > memory:
        return 1
    whole = replace(setup, micro_batch=usual)
    if least_bytes(whole) <= memory and trace(whole).reserved_bytes <= memory:
        return usual
    return max(1, largest(smaller, memory, below=usual))


def hopeless(standing: int, gpus: int, memory: int) -> bool:
    """Whether not even a share of what stands has room, so that nothing need be traced."""
    return standing / gpus + CONTEXT > memory
