"""What was trained and its base, measured on the same rows and asked the same things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from packtrain.artifacts.locate import LocatedAdapter
from packtrain.config import DataConfig, Prompt, RunConfig
from packtrain.config.columns import IN_TURNS
from packtrain.data.chat import template_text
from packtrain.data.columns import Columns
from packtrain.data.formats import is_text
from packtrain.data.prepare import prepare
from packtrain.data.rows import Row
from packtrain.data.sources import open_source
from packtrain.data.streaming import open_streamed
from packtrain.data.tokenized import TokenizedRows
from packtrain.errors import ConfigError, DataError
from packtrain.evaluate.answers import Answer, Score, answers, score
from packtrain.evaluate.batched import generate_all
from packtrain.evaluate.chat import load
from packtrain.evaluate.generate import decode, stop_ids
from packtrain.evaluate.judge import Measured, last_turns, measure
from packtrain.evaluate.metrics import AnswerScores, score_answers

Say = Callable[[str], None]


@dataclass(frozen=True)
class Side:
    """The base's, or the adapter's."""

    measured: Measured
    answers: AnswerScores | None

    def to_json(self) -> dict[str, Any]:
        scores = {} if self.answers is None else {"answers": self.answers.to_json()}
        return self.measured.to_json() | scores


@dataclass(frozen=True)
class Comparison:
    data: str
    """What it was measured on, in words."""
    rows: int
    base: Side
    adapter: Side
    prompts: tuple[Answer, ...]

    @property
    def score(self) -> Score | None:
        return score(self.prompts)

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "rows": self.rows,
            "base": self.base.to_json(),
            "adapter": self.adapter.to_json(),
            "prompts": [answer.to_json() for answer in self.prompts],
        }


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    rows: str | None = None
    """A file or a data set in place of the run's validation rows."""
    format: str = "auto"
    max_length: int = 2048
    limit: int | None = None
    """Of the rows, the first so many."""
    generate: int = 0
    """Rows whose last answer is written by base and adapter, too."""
    max_new_tokens: int = 128
    four_bits: bool | None = None
    """Whether the base stands in 4 bits; None: as it did in training."""


def compare(
    located: LocatedAdapter, run: RunConfig | None, base: str | None, wanted: Wanted, *, say: Say
) -> Comparison:
    """``run``: the settings that it was trained with, where they are known.

    Raises ConfigError where nothing says what to measure on, DataError where no row is left.
    """
    if run is None and wanted.rows is None:
        raise ConfigError(
            f"{located.folder}: nothing says which rows it was held against",
            hint="name the run file or the run's folder, or rows with --data FILE",
        )
    model, tokenizer, disabled = load(located, base, four_bits=wanted.four_bits, on_progress=say)
    say("reading the data")
    rows, what = validation_rows(run, wanted, tokenizer)
    if wanted.limit is not None:
        rows = rows.take(np.arange(min(wanted.limit, len(rows)), dtype=np.int64))
    if not rows.targets.sum():
        raise DataError(f"{what}: has no tokens that an assistant says")
    with disabled() as other:
        before = _side(model if other is None else other, tokenizer, rows, wanted, say, "the base")
    after = _side(model, tokenizer, rows, wanted, say, "the model" if located.full else "the adapter")
    prompts: Sequence[str | Prompt] = run.evaluate.prompts if run is not None else []
    said: list[Answer] = []
    if prompts:
        say(f"answering {len(prompts)} prompts, before and after")
        longest = run.evaluate.max_new_tokens if run is not None else wanted.max_new_tokens
        system = run.data.system if run is not None else None
        said = answers(model, tokenizer, prompts, max_new_tokens=longest, base=disabled, system=system)
    return Comparison(what, len(rows), before, after, tuple(said))


def validation_rows(run: RunConfig | None, wanted: Wanted, tokenizer: Any) -> tuple[TokenizedRows, str]:
    """The rows to measure on, and what they are."""
    template = template_text(run.model.chat_template) if run is not None else None
    seed = run.train.seed if run is not None else 0
    if wanted.rows is not None:
        settings: dict[str, Any] = {"train": wanted.rows, "validation": 0.0, "format": wanted.format}
        settings |= {"weight_column": None}  # as with the run's validation rows, a loss that is comparable
        settings |= {"max_length": run.data.max_length if run is not None else wanted.max_length}
        settings |= _as_trained(run.data, wanted.rows) if run is not None else {}
        data = DataConfig.model_validate(settings)
        return prepare(data, tokenizer, chat_template=template, seed=seed).train, wanted.rows
    assert run is not None
    validation = (
        open_streamed(run.data, tokenizer, chat_template=template, seed=seed).validation
        if run.data.streaming
        else prepare(run.data, tokenizer, chat_template=template, seed=seed).validation
    )
    if validation is None:
        raise ConfigError(
            "data.validation: the run has no rows for validation", hint="name others with --data FILE"
        )
    return validation, "the run's validation rows"


def _as_trained(data: DataConfig, rows: str) -> dict[str, Any]:
    """How the run saw its rows; its names of columns only where these rows have them, too."""
    kept: dict[str, Any] = {"reasoning": data.reasoning}
    first = next((row.fields for row in open_source(rows, limit=1) if isinstance(row, Row)), None)
    if first is None:
        return kept
    if Columns.of(data).fit(first):
        there = {ours: name for ours, name in data.columns.items() if ours in IN_TURNS or name in first}
        kept |= {"columns": there, "roles": data.roles}
    if not is_text(first):
        kept["system"] = data.system
    return kept


def _side(model: Any, tokenizer: Any, rows: TokenizedRows, wanted: Wanted, say: Say, who: str) -> Side:
    say(f"measuring {who} on {len(rows)} rows")
    measured = measure(model.eval(), rows)
    if not wanted.generate:
        return Side(measured, None)
    stop = stop_ids(model, tokenizer)
    turns = last_turns(rows, wanted.generate, stop)
    if not turns:
        raise DataError("no row has something before an answer, so that there is nothing to answer")
    say(f"{who} answers {len(turns)} rows")
    said = generate_all(
        model, [prompt for prompt, _ in turns], stop=stop, max_new_tokens=wanted.max_new_tokens
    )
    texts = [decode(tokenizer, tokens) for tokens in said]
    return Side(measured, score_answers(texts, [decode(tokenizer, answer) for _, answer in turns]))
