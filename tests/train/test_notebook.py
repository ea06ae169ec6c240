"""The bar in a notebook: one output that is replaced, with what matters left at the end."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from packtrain.rundir import Event
from packtrain.train.notebook import LINES, NotebookProgress
from packtrain.train.progress import PlainProgress, in_notebook, make_progress


def event(kind: str, step: int = 0, **fields: Any) -> Event:
    return Event(kind, step, 1, 0, "2026-11-24T05:09:42.123Z", fields=fields)


def step(number: int) -> Event:
    return event("step", number, loss=1.25, tokens_per_second=12345.6, learning_rate=2e-4)


class Cell:
    """Outputs of a cell, each with all that it has shown."""

    def __init__(self) -> None:
        self.outputs: list[list[tuple[str, str]]] = []

    def __call__(self) -> Any:
        shown: list[tuple[str, str]] = []
        self.outputs.append(shown)
        return lambda text, html: shown.append((text, html))

    @property
    def last(self) -> tuple[str, str]:
        assert len(self.outputs) == 1
        return self.outputs[0][-1]


def test_a_run_has_one_output_that_ends_with_what_came_of_it() -> None:
    cell = Cell()
    progress = NotebookProgress(cell, interval=0.0)
    progress.stage("reading the data")
    progress.tick(1234, None)
    assert cell.last[0] == "reading the data 1,234"
    assert "<progress></progress>" in cell.last[1]
    progress.event(event("start", rows=20, steps=4, device="cpu", dtype="float32"))
    progress.begin(0, 4)
    for number in range(1, 5):
        progress.event(step(number))
        if number == 2:
            bar = cell.last[0].splitlines()[-1]
            assert re.match(
                r"training 2/4  loss 1\.2500  12,346 tokens/s  lr 2\.00e-04  .*GB  left 0 s$", bar
            )
            assert 'value="2" max="4"' in cell.last[1]
        progress.event(event("checkpoint", number, seconds=0.25))
    progress.stage("writing the adapter")
    progress.close()
    assert cell.last[0].splitlines() == [
        "20 rows, 4 steps, on cpu in float32",
        "step 4/4  loss 1.2500  12,346 tokens/s  learning rate 2.00e-04",
        "step 4: checkpoint saved in 0.2 s",
    ]
    assert "<progress" not in cell.last[1]


def test_nothing_is_shown_where_nothing_happens() -> None:
    cell = Cell()
    NotebookProgress(cell).close()
    assert cell.outputs == []


def test_a_hundred_thousand_steps_are_a_few_changes() -> None:
    cell = Cell()
    progress = NotebookProgress(cell, interval=1000.0)
    progress.begin(0, 100_000)
    for number in range(1, 10_001):
        progress.event(step(number))
    assert len(cell.outputs[0]) == 1


def test_lines_are_few_and_warnings_stay() -> None:
    cell = Cell()
    progress = NotebookProgress(cell, interval=0.0)
    progress.event(event("warning", message="2 rows <b>cut</b>"))
    for number in range(50):
        progress.event(event("eval", number, model="adapter", loss=1.5, perplexity=4.48))
    lines = cell.last[0].splitlines()
    assert len(lines) == LINES + 1
    assert lines[0] == "warning: 2 rows <b>cut</b>"
    assert lines[-1].startswith("step 49: ")
    assert "2 rows &lt;b&gt;cut&lt;/b&gt;" in cell.last[1]


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def ipython(shell: Any) -> None:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    for shell in (None, SimpleNamespace()):  # imported, and on a terminal
        ipython(shell)
        assert not in_notebook()
    assert isinstance(make_progress(sys.stderr), PlainProgress)
    ipython(SimpleNamespace(kernel=object()))
    assert in_notebook()
    assert isinstance(make_progress(), NotebookProgress)
    assert isinstance(make_progress(sys.stderr), PlainProgress)
