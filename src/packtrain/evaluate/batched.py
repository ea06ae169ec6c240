"""Greedy answers to several prompts at once, with a KV cache: what one prompt alone would get.

Prompts are padded on the left, padding is masked, and positions count from each prompt's own first
token. The numbers differ from those of a prompt alone by rounding; in float32 that decides between two
tokens only where both are as likely to seven digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from packtrain.errors import DivergedError


def generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], *, stop: frozenset[int], max_new_tokens: int
) -> list[list[int]]:
    """The new tokens after each prompt, without the one that ends the answer.

    ``prompts``: token ids, none empty. The model must be in eval mode. Raises DivergedError for NaN.
    """
    assert prompts and all(prompts)
    longest = max(map(len, prompts))
    # Masked, so that any token does.
    rows = [[0] * (longest - len(ids)) + list(ids) for ids in prompts]
    mask_BT = torch.tensor(
        [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device
    )
    step_BT = torch.tensor(rows, device=model.device)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    said: list[list[int]] = [[] for _ in prompts]
    going, cache = set(range(len(prompts))), None
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            output = model(
                input_ids=step_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits_BV, cache = output.logits[:, -1].float(), output.past_key_values
        if bool(logits_BV.isnan().any()):
            raise DivergedError("the model gives NaN logits while answering")
        tokens = logits_BV.argmax(-1).tolist()
        for row in list(going):
            if tokens[row] in stop:
                going.remove(row)
            else:
                said[row].append(tokens[row])
        if not going:
            break
        step_BT = torch.tensor(tokens, device=model.device)[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(step_BT)], dim=1)
        positions_BT = positions_BT[:, -1:] + 1
    return said


def generate_all(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: frozenset[int],
    max_new_tokens: int,
    batch: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """:func:`generate_batch` over any number of prompts, those of like length together."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    said: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), batch):
        some = order[first : first + batch]
        answers = generate_batch(
            model, [prompts[index] for index in some], stop=stop, max_new_tokens=max_new_tokens
        )
        for index, answer in zip(some, answers, strict=True):
            said[index] = answer
        on_progress(first + len(some), len(prompts))
    return said
