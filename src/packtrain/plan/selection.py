"""Selective activation checkpointing, as torchtitan has it: half of the products and the attention are kept.

https://github.com/pytorch/torchtitan torchtitan/models/llama3/infra/parallelize.py,
`_apply_ac_to_transformer_block` with `selective_ac_option = "op"`: of the matrix products of a
layer the first, the third and so on. packtrain does not train like that; the planner describes it, since
peaks of it are published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
#: Whether a stand-in for the attention's kernel is at work: no operator of PyTorch tells.
_attending = [False]


@contextmanager
def attention() -> Iterator[None]:
    """Inside, what is made is the attention's output."""
    _attending[0] = True
    try:
        yield
    finally:
        _attending[0] = False


def checkpoint_selectively(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        layer.forward = _forward(layer.forward)


def _forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, context_fn=_contexts, **kwargs)

    return again


def _contexts() -> Any:
    counted = {False: 0, True: 0}

    def policy(context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        kept = _attending[0]
        if operator in PRODUCTS:
            counted[context.is_recompute] += 1
            kept = counted[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
