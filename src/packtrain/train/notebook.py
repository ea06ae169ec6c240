"""A run in a notebook: a bar, and a few lines above it, that stay in their place below the cell.

What is printed in a cell stays in the notebook's file, however often: so one output is made and replaced,
by IPython itself, which needs no widgets and does the same in JupyterLab, VS Code and Colab. A notebook
that was saved shows the last of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from html import escape

from packtrain.rundir import Event
from packtrain.train.progress import Progress, describe, duration, peak_of

#: Seconds between two changes; a kernel's messages are not free.
INTERVAL = 0.2
#: Lines above the bar: the last of what was told, and of what was warned of.
LINES, WARNINGS = 8, 20
_STYLE = "font-family:monospace;white-space:pre-wrap"

Show = Callable[[str, str], None]
"""Replaces what is shown: as text, and as HTML."""


def cell() -> Show:
    """An output of the running cell. Errors: ImportError without IPython."""
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(text: str, html: str) -> None:
        handle.update({"text/plain": text, "text/html": html}, raw=True)

    return show


class NotebookProgress(Progress):
    """Nothing is shown before there is something to show."""

    def __init__(self, output: Callable[[], Show] = cell, interval: float = INTERVAL) -> None:
        self._output, self._interval = output, interval
        self._show: Show | None = None
        self._shown = float("-inf")
        self._told: deque[tuple[str, str]] = deque(maxlen=LINES)
        self._warned: deque[str] = deque(maxlen=WARNINGS)
        self._stage, self._note = "", ""
        self._done, self._total = 0, 0
        self._training = False
        self._began = (0, time.monotonic())

    def stage(self, text: str, *, brief: bool = False) -> None:
        self._training = False
        self._stage, self._note, self._done, self._total = text, "", 0, 0
        if not brief:
            self._draw(now=True)

    def tick(self, done: int, total: int | None) -> None:
        self._done, self._total = done, total or 0
        self._draw()

    def begin(self, step: int, steps: int) -> None:
        super().begin(step, steps)
        self._training = True
        self._stage, self._done, self._total, self._note = "training", step, steps, ""
        self._began = (step, time.monotonic())
        self._draw()

    def event(self, event: Event) -> None:
        line = describe(event, self.steps)
        if line is None:
            return
        if event.kind == "warning":
            self._warned.append(line)
        elif event.kind != "step" or event.step == self.steps:
            if event.kind == "checkpoint":  # of these the last one says it all
                self._told = deque((each for each in self._told if each[0] != event.kind), maxlen=LINES)
            self._told.append((event.kind, line))
        if event.kind == "step":
            self._done, self._note = event.step, self._described(event)
        self._draw(now=event.kind != "step")

    def close(self) -> None:
        self._stage = ""
        if self._show is not None:
            self._draw(now=True)

    def _described(self, step: Event) -> str:
        first, began = self._began
        left = (time.monotonic() - began) / max(1, step.step - first) * (self.steps - step.step)
        data = step.fields
        return (
            f"loss {float(data['loss']):.4f}  {data['tokens_per_second']:,.0f} tokens/s  "
            f"lr {data['learning_rate']:.2e}  {peak_of(step) / 1e9:.2f} GB  left {duration(left)}"
        )

    def _draw(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._shown < self._interval:
            return
        if self._show is None:
            self._show = self._output()
        lines = [*self._warned, *(line for _, line in self._told)]
        self._show("\n".join([*lines, *self._bar()]), self._html(lines))
        self._shown = time.monotonic()

    def _bar(self) -> list[str]:
        if not self._stage:
            return []
        count = (
            f" {self._done:,}/{self._total:,}" if self._total else f" {self._done:,}" if self._done else ""
        )
        return [f"{self._stage}{count}  {self._note}".rstrip()]

    def _html(self, lines: list[str]) -> str:
        parts = [f'<div style="{_STYLE}">{escape(line)}</div>' for line in lines]
        if self._stage:
            known = f' value="{self._done}" max="{self._total}"' if self._total else ""
            bar = f"<progress{known}></progress> {escape(self._bar()[0])}"
            parts.append(f'<div style="{_STYLE}">{bar}</div>')
        return "".join(parts)
