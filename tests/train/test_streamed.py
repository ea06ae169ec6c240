"""Steps of streamed data: the same from any step on, and what happens when the data ends in between."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer

from packtrain.config import DataConfig
from packtrain.data import stream as module
from packtrain.data.stream import Window, WindowMaker
from packtrain.data.stream_mark import Mark
from packtrain.data.streaming import Streamed, open_streamed
from packtrain.errors import BugError, ConfigError, DataError, UnavailableError
from packtrain.model.parallel import World
from packtrain.train.streamed import StreamedPlan, StreamEndedError

STEPS = 24
BEGIN = Mark()


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "MOST_BATCHES", 4)


def write(path: Path, count: int, answer: str = "It is {}.") -> Path:
    rows = [{"prompt": f"What is {n}?", "completion": answer.format(n)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(path: Path, **data: Any) -> Streamed:
    config = DataConfig(train=str(path), streaming=True, max_length=128, **({"validation": 0.1} | data))
    return open_streamed(config, tokenizer("smollm2"), chat_template=None, seed=3)


def plan_of(streamed: Streamed, mark: Mark = BEGIN, world: World | None = None) -> StreamedPlan:
    made = streamed.maker(250, mark.start, mark.found)
    return StreamedPlan(made, mark, steps=STEPS, world=world or World())


def never() -> None:
    raise AssertionError("it was there")


def patience() -> None:
    time.sleep(0.0)


def told(plan: StreamedPlan, step: int) -> tuple[list[list[int]], list[str], list[int], float]:
    """All that a step is: its tokens, their places, and the names of its bins."""
    window = plan.turn_to(step, patience)
    bins = plan.batch(step)
    rows = [int(row) for each in bins for row in window.bins[each]]
    tokens = [window.rows.row(row)[0].tolist() for row in rows]
    return tokens, [window.rows.places[row] for row in rows], bins.tolist(), plan.epoch_at(step)


def test_from_every_step_on_the_steps_are_the_same(tmp_path: Path) -> None:
    streamed = opened(write(tmp_path / "t.jsonl", 40))
    plan = plan_of(streamed)
    plan.first()
    whole, marks, trained = [], [plan.mark(0)], []
    for step in range(1, STEPS + 1):
        whole.append(told(plan, step))
        marks.append(Mark.of_plain(json.loads(json.dumps(plan.mark(step).to_plain()))))
        trained.append(plan.trained(step))
    assert marks[-1].start.epoch >= 2 or marks[-1].window >= 4
    assert len({mark.window for mark in marks}) >= 4
    for after, mark in enumerate(marks[:-1]):
        again = plan_of(opened(tmp_path / "t.jsonl"), mark)
        again.first()
        assert [told(again, step) for step in range(after + 1, STEPS + 1)] == whole[after:]
        assert again.mark(STEPS) == plan.mark(STEPS)
        assert again.trained(STEPS) == trained[-1]
    done = plan_of(streamed, marks[-1])
    done.first()
    assert done.trained(STEPS) == trained[-1], "a run that only has its end before it"
    assert done.epoch_at(STEPS) == plan.epoch_at(STEPS)


def test_a_step_is_of_about_the_tokens_that_were_asked_for(tmp_path: Path) -> None:
    plan = plan_of(opened(write(tmp_path / "t.jsonl", 40)))
    for step in range(1, STEPS + 1):
        window = plan.turn_to(step, patience)
        tokens = sum(int(window.rows.lengths[window.bins[each]].sum()) for each in plan.batch(step))
        assert 100 <= tokens <= 500
        assert len(plan.batch(step)) <= plan.most_bins


def test_other_rows_than_before_the_stop_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", 40)
    plan = plan_of(opened(path))
    told(plan, 1)
    write(path, 40, "It was {}.")
    with pytest.raises(ConfigError, match=r"the rows from .*t.jsonl:\d+ on are others than when the run was"):
        plan_of(opened(path), plan.mark(0)).first()


def test_rows_that_cannot_be_read_end_the_run_only_when_they_are_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", 40)
    path.write_text(path.read_text() + "{broken\n")
    plan = plan_of(opened(path, validation=0.0))
    done = 0
    with pytest.raises(StreamEndedError) as raised:
        for step in range(1, STEPS + 1):
            told(plan, step)
            done = step
    assert done >= 3
    assert isinstance(raised.value.reason, DataError)
    assert str(raised.value.reason).startswith(f"{path}:41: is not valid JSON") or "t.jsonl:41" in str(
        raised.value.reason
    )
    assert plan.mark(done).steps == done, "it would go on with the rows that failed"


class Slow(WindowMaker):
    """Waits with every window until it is let go on."""

    def make(self, number: int) -> Window:
        assert self.gate.wait(60)
        return super().make(number)

    gate: threading.Event


def test_whoever_waits_for_a_window_is_asked_whether_to_stop(tmp_path: Path) -> None:
    made = opened(write(tmp_path / "t.jsonl", 40)).maker(250, Mark().start, Mark().found)
    slow = Slow(made.stream, made.config, made.template, made.batch_tokens, made.seed)
    slow.gate = threading.Event()
    plan = StreamedPlan(slow, Mark(), steps=STEPS, world=World())

    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        plan.turn_to(1, stop)
    slow.gate.set()
    assert plan.turn_to(1, patience).number == 0


class Others(World):
    """A world of two, in which the other rank says what it is given."""

    said: Any = None

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self, value: Any) -> list[Any]:
        return [value, self.said(value)]


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (lambda value: (69, "gone", None), UnavailableError, "rank 1 cannot read the data: gone"),
        (
            lambda value: (65, "row 3 is bad", "mend it"),
            DataError,
            "rank 1 cannot read the data: row 3 is bad",
        ),
        (lambda value: "other", BugError, "the ranks made different tokens of the same data"),
    ],
)
def test_a_rank_that_cannot_read_ends_all_of_them(
    said: Any, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    world = Others()
    object.__setattr__(world, "said", said)
    plan = plan_of(opened(write(tmp_path / "t.jsonl", 40)), world=world)
    with pytest.raises(StreamEndedError, match=message) as raised:
        plan.turn_to(1, patience)
    assert isinstance(raised.value.reason, kind)


def test_no_window_is_made_that_nobody_needs(tmp_path: Path) -> None:
    streamed = opened(write(tmp_path / "t.jsonl", 40))
    made = streamed.maker(250, Mark().start, Mark().found)
    plan = StreamedPlan(made, Mark(), steps=1, world=World())
    plan.turn_to(1, patience)
    assert plan.mark(1).window == 1
    assert made.stream.position == plan.mark(1).start
    plan.turn_to(1, never)
