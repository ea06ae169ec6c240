"""What the card says of the data: one line a source, whatever a source is."""

from __future__ import annotations

from typing import Any

from packtrain.run.facts import _hub_datasets, _source_lines

HUB: dict[str, Any] = {"source": ["o/a:train", "o/a:test"], "revision": "c" * 40, "files": []}
FILES: dict[str, Any] = {
    "source": "x.jsonl",
    "revision": None,
    "weight": 0.5,
    "files": [{"name": "x.jsonl", "sha256": "ab"}],
}


def test_splits_of_one_data_set_are_named_together() -> None:
    assert _source_lines({"train": HUB}) == [f"train: `o/a:train`, `o/a:test` at revision `{'c' * 40}`"]
    assert _hub_datasets({"train": HUB, "validation": HUB | {"source": "o/b:test"}}) == ["o/a", "o/b"]


def test_a_source_of_a_mixture_has_its_weight() -> None:
    found = {"train[0]": FILES, "train[1]": HUB | {"source": "o/b", "weight": 2.0}}
    assert _source_lines(found) == [
        "train[0], weight 0.5: `x.jsonl`, SHA-256 `ab`",
        f"train[1], weight 2: `o/b` at revision `{'c' * 40}`",
    ]
