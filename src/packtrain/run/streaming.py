"""A run whose data is streamed: where it goes on from, and what is said of it at its start and its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packtrain.config import DataConfig, RunConfig
from packtrain.data.mixture import source_list
from packtrain.data.prepare import PreparedData
from packtrain.data.sources import local_bytes
from packtrain.data.stream_mark import Mark
from packtrain.data.streaming import Streamed, open_streamed, report_of
from packtrain.train.streamed import StreamedPlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from packtrain.model.parallel import World
    from packtrain.run.session import Session
    from packtrain.train.checkpoint import TrainingState

#: Bytes of local files from which on it is said that they could be streamed.
LARGE = 10**9


@dataclass(frozen=True)
class Stream:
    """The data of a run, opened, and its steps."""

    streamed: Streamed
    plan: StreamedPlan
    data: PreparedData
    """The rows that training begins with, or goes on with, and a report of these."""

    def trained(self, steps: int) -> PreparedData:
        """The same with a report of all that ``steps`` steps were trained on."""
        return replace(self.data, report=report_of(self.streamed, self.plan.trained(steps)))


def begin_stream(
    session: Session,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    world: World,
    state: TrainingState,
) -> Stream:
    """Open the data, and wait for the first rows to train on. All ranks call.

    Errors: those of :func:`open_streamed`; ConfigError for data that is another than in the checkpoint.
    """
    session.stage("reading the data")
    assert config.train.max_steps is not None
    streamed = world.main_first(
        lambda: open_streamed(config.data, tokenizer, chat_template=template, seed=config.train.seed)
    )
    mark = Mark()
    if state.stream:
        kept = dict(state.stream)
        streamed.check_same(kept.pop("files"))
        mark = Mark.of_plain(kept)
    state.stream = {"files": streamed.files, **mark.to_plain()}
    maker = streamed.maker(config.train.batch_tokens, mark.start, mark.found)
    plan = StreamedPlan(maker, mark, steps=config.train.max_steps, world=world)
    window = plan.first()
    report = report_of(streamed, mark.within(window).after(window, window.steps))
    return Stream(streamed, plan, streamed.prepared(window.rows, window.bins, report))


def size_hint(config: DataConfig) -> str | None:
    """A sentence for large data that is read whole before the first step; None for less."""
    if config.limit is not None or config.mixture:
        return None
    size = local_bytes(source_list(config.train))
    if size < LARGE:
        return None
    return (
        f"{size / 1e9:.1f} GB of data are tokenised before the first step, unless that was done before; "
        "data.streaming: true begins at once"
    )
