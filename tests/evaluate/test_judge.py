"""Loss and token accuracy by hand, and the answers that rows hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_base
from trained import plain_base

from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import DivergedError
from packtrain.evaluate import judge
from packtrain.evaluate.judge import last_turns, measure


def rows_of(*rows: tuple[list[int], list[int]]) -> TokenizedRows:
    return TokenizedRows.of(
        [np.array(tokens, dtype=np.int32) for tokens, _ in rows],
        [np.array(mask, dtype=np.bool_) for _, mask in rows],
        [f"row:{index}" for index in range(len(rows))],
    )


@pytest.fixture(scope="module")
def some() -> TokenizedRows:
    generator = np.random.default_rng(0)
    rows = []
    for length in (3, 90, 17, 40, 1):
        rows.append((generator.integers(0, 256, length).tolist(), generator.integers(0, 2, length).tolist()))
    return rows_of(*rows)


@pytest.mark.parametrize("most", [(4096, 2**27), (100, 2000)], ids=["at once", "in parts"])
def test_as_by_hand(
    tmp_path: Path, some: TokenizedRows, most: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "TOKENS", most[0])
    monkeypatch.setattr(judge, "LOGITS", most[1])
    model = plain_base(make_tiny_base(tmp_path))
    losses: list[float] = []
    right = 0
    for index in range(len(some)):
        tokens, supervised = some.row(index)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor(tokens[None].astype(np.int64))).logits[0]
        for place in range(1, len(tokens)):
            if supervised[place]:
                losses.append(float(-logits[place - 1].double().log_softmax(-1)[tokens[place]]))
                right += int(logits[place - 1].argmax()) == tokens[place]
    seen: list[tuple[int, int]] = []
    found = measure(model, some, lambda *at: seen.append(at))
    assert found.tokens == len(losses) == some.targets.sum()
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.accuracy == right / len(losses)
    assert found.perplexity == pytest.approx(np.exp(found.loss))
    assert seen[-1] == (5, 5)


def test_a_model_that_has_diverged(tmp_path: Path, some: TokenizedRows) -> None:
    model = plain_base(make_tiny_base(tmp_path))
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="NaN"):
        measure(model, some)


def test_the_last_answer_of_a_row() -> None:
    rows = rows_of(
        ([1, 2, 3, 9], [0, 0, 1, 1]),
        ([1, 2, 3, 9, 5, 6, 9], [0, 1, 1, 1, 0, 1, 1]),
        ([7, 8], [1, 1]),  # begins with its answer
        ([7, 8], [0, 0]),
        ([4, 5, 9], [0, 1, 1]),
    )
    turns = [([1, 2], [3]), ([1, 2, 3, 9, 5], [6]), ([4], [5])]
    assert last_turns(rows, 10, frozenset({9})) == turns
    assert last_turns(rows, 2, frozenset({9})) == turns[:2]
    assert last_turns(rows, 1, frozenset()) == [([1, 2], [3, 9])]
