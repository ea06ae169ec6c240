"""`data:` what is trained on, and how rows become sequences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from packtrain.config.base import NOT_BLANK, Section
from packtrain.config.columns import Name, Role, Theirs


class DataConfig(Section):
    train: str | list[str] = Field(min_length=1)
    """A Hugging Face data set id, or files, folders, globs (jsonl, json, csv, parquet, also .gz
    and .zst), or `gs://…`."""
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] | str | list[str] = 0.02
    """A share of the rows of `train` (0 for none), or a source of its own."""
    format: Literal["auto", "dolly", "alpaca", "sharegpt", "messages", "prompt-completion", "text"] = "auto"
    """How a row is laid out. `auto` looks at the columns of the first rows."""
    columns: dict[Name, Theirs] = Field(default={})
    """Where the file has other names: ours, then its own, as in `{prompt: question, completion: answer}`."""
    roles: dict[Role, Theirs | Annotated[list[Theirs], Field(min_length=1)]] = Field(default={})
    """Where turns have other roles: ours, then its own, as in `{user: customer, assistant: [agent, ai]}`."""
    system: str | None = Field(default=None, pattern=NOT_BLANK)
    """A system prompt for every conversation that has none of its own."""
    reasoning: Literal["template", "content", "drop"] = "template"
    """What an assistant thinks before it answers: rendered as the chat template does (refused where it
    does not), put before the answer as `<think>…</think>`, or left out."""
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
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many rows, for a trial."""
