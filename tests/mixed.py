"""A run on a mixture: two sources of which epochs see fractions, with rows that count more than others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whole_run import Job, facts, make_job, write_rows


def mixed_job(folder: Path, base: Path, **train: Any) -> Job:
    sources = [
        {"source": "some.jsonl", "weight": 1.5, "format": "dolly"},
        {"source": "other.jsonl", "weight": 0.4},
    ]
    settings: dict[str, Any] = {"epochs": 3, "batch_tokens": 500, "micro_batch": 1} | train
    job = make_job(
        folder, base, data={"train": sources, "max_length": 128}, adapter={"dropout": 0.1}, train=settings
    )
    rows = facts(16)
    for number, row in enumerate(rows):
        row["weight"] = 1 + number % 3 / 2
    write_rows(folder / "some.jsonl", rows)
    turns = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}."}]}
        for n in range(12)
    ]
    write_rows(folder / "other.jsonl", turns)
    return job
