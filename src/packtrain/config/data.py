"""`data:` what is trained on, and how rows become sequences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from packtrain.config.base import Section


class DataConfig(Section):
    train: str | list[str] = Field(min_length=1)
    """A Hugging Face data set id, or files, folders, globs (jsonl, json, csv, parquet, also .gz
    and .zst), or `gs://…`."""
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] | str | list[str] = 0.02
    """A share of the rows of `train` (0 for none), or a source of its own."""
    format: Literal["auto", "dolly", "alpaca", "sharegpt", "messages", "prompt-completion", "text"] = "auto"
    """How a row is laid out. `auto` looks at the columns of the first rows."""
    revision: str | None = None
    """A branch, tag or commit of a Hugging Face data set; pinned when the run starts."""
    max_length: int = Field(default=2048, ge=16, le=1_048_576)
    """Tokens in a packed sequence. Longer costs more memory; shorter cuts long rows."""
    too_long: Literal["truncate", "skip", "fail"] = "truncate"
    """What happens to a row longer than `max_length`. A cut answer never trains an end of turn."""
    packing: bool = True
    """Several rows in a sequence, without seeing each other. Off: one row a sequence."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """`skip` counts bad rows and lists the first ten."""
    max_bad_rows: int = Field(default=100, ge=0)
    """With `on_bad_row: skip`: more bad rows than this still fail the run."""
    streaming: bool = False
    """Rows are read and tokenised while training goes on, in windows that are shuffled and packed each for
    itself: for data that is larger than memory or disk. Needs `train.max_steps`."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many rows, for a trial."""
