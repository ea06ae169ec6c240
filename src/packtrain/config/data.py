"""`data:` what is trained on, and how rows become sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from packtrain.config.base import NOT_BLANK, Section
from packtrain.config.columns import IN_TURNS, Name, Role, Theirs, wrong

Format = Literal["auto", "dolly", "alpaca", "sharegpt", "messages", "prompt-completion", "text"]


class DataSource(Section):
    source: str = Field(min_length=1)
    """As in `data.train`: a data set's id, a file, folder or glob, or `gs://…`."""
    weight: float = Field(default=1.0, gt=0.0, le=1000.0)
    """How often an epoch sees each row: 2 is twice, 0.5 is half of the rows, and the other half in the
    next epoch."""
    format: Format | None = None
    """How its rows are laid out. Default: `data.format`."""
    revision: str | None = None
    """A branch, tag or commit of the Hugging Face data set; pinned when the run starts."""
    limit: int | None = Field(default=None, ge=1)
    """Use only its first so many rows, and no more than `data.limit`."""


class DataConfig(Section):
    train: Annotated[str, Field(min_length=1)] | Annotated[list[str | DataSource], Field(min_length=1)]
    """A Hugging Face data set id, or files, folders, globs (jsonl, json, csv, parquet, also .gz
    and .zst), or `gs://…`; or a list, whose items may be keys and values with a weight of their own."""
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] | str | list[str] = 0.02
    """A share of the rows of `train` (0 for none), or a source of its own."""
    format: Format = "auto"
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
    """A branch, tag or commit of a Hugging Face data set; pinned when the run starts. In a mixture each
    item has its own."""
    max_length: int = Field(default=2048, ge=16, le=1_048_576)
    """Tokens in a packed sequence. Longer costs more memory; shorter cuts long rows."""
    too_long: Literal["truncate", "skip", "fail"] = "truncate"
    """What happens to a row longer than `max_length`. A cut answer never trains an end of turn."""
    packing: bool = True
    """Several rows in a sequence, without seeing each other. Off: one row a sequence."""
    weight_column: str | None = Field(default="weight", min_length=1)
    """The column with a row's weight, a number from 0: what its loss counts. A row without it counts 1,
    one of 0 is left out. `null`: such a column is something else."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """`skip` counts bad rows and lists the first ten."""
    max_bad_rows: int = Field(default=100, ge=0)
    """With `on_bad_row: skip`: more bad rows than this still fail the run."""
    streaming: bool = False
    """Rows are read and tokenised while training goes on, in windows that are shuffled and packed each for
    itself: for data that is larger than memory or disk. Needs `train.max_steps`."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many rows, for a trial; in a mixture, of each item."""

    @property
    def mixture(self) -> tuple[DataSource, ...]:
        """The items of `train` where one of them says more than its source; else none."""
        if isinstance(self.train, str) or all(isinstance(each, str) for each in self.train):
            return ()
        return tuple(DataSource(source=each) if isinstance(each, str) else each for each in self.train)

    @property
    def revisions(self) -> tuple[str | None, ...]:
        """Of the mixture's items; without one, the one that all sources have."""
        return tuple(each.revision for each in self.mixture) or (self.revision,)

    def pinned(self, revisions: Sequence[str | None]) -> DataConfig:
        """The same with other :attr:`revisions`."""
        if not self.mixture:
            return self.model_copy(update={"revision": revisions[0]})
        items = zip(self.mixture, revisions, strict=True)
        train = [each.model_copy(update={"revision": revision}) for each, revision in items]
        return self.model_copy(update={"train": train})


def wrong_names(data: DataConfig) -> str | None:
    """The first thing that names of columns and roles and a system prompt cannot mean, in any format that
    rows are read by; as ``key: sentence``. None where all is well."""
    formats: dict[Format, str] = {}
    for number, item in enumerate(data.mixture):
        formats.setdefault(item.format or data.format, f" (data.train[{number}])" if item.format else "")
    if not data.mixture or not isinstance(data.validation, float | int):
        formats.setdefault(data.format, "")
    for format, where in formats.items():
        if problem := wrong(format, data.columns, data.roles, data.system):
            return f"{problem}{where}"
    for ours, theirs in data.columns.items():
        if ours not in IN_TURNS and theirs == data.weight_column:
            return (
                f"data.columns.{ours}: {theirs} is data.weight_column already; a column is one thing "
                "(data.weight_column: null, where no column is a weight)"
            )
    return None


def source_names(value: object) -> list[str]:
    """What `data.train` or `data.validation` names, without what it says of it; none for a share."""
    each = value if isinstance(value, list) else [value]
    named = [item.source if isinstance(item, DataSource) else item for item in each]
    return [name for name in named if isinstance(name, str)]
