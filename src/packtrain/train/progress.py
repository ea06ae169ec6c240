"""What a person sees of a run: a bar on a terminal or in a notebook, plain lines elsewhere.

A progress gets the same events as the file, and decides nothing.
"""

from __future__ import annotations

import math
import os
import sys
import time
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING, Any

from packtrain.rundir import Event

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_SECONDS = 5.0


def in_notebook() -> bool:
    """Whether this is a cell of a notebook, without importing IPython to ask."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process, at their highest so far."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_of(step: Event) -> int:
    """The same, of the process that did a step: who watches it is another one, perhaps."""
    return int(step.fields.get("peak_bytes") or peak_memory())


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def describe(event: Event, steps: int) -> str | None:
    """One line about an event, or None for one that says nothing to a person."""
    data = event.fields
    match event.kind:
        case "start":
            after = data.get("resumed_from")
            return f"going on after step {after}" if after else _setting(data)
        case "step":
            return (
                f"step {event.step}/{steps}  loss {float(data['loss']):.4f}  "
                f"{data['tokens_per_second']:,.0f} tokens/s  learning rate {data['learning_rate']:.2e}"
            )
        case "eval":
            return (
                f"step {event.step}: validation loss of the {data['model']} {float(data['loss']):.4f} "
                f"(perplexity {float(data['perplexity']):.2f})"
            )
        case "checkpoint":
            return f"step {event.step}: checkpoint saved in {data['seconds']:.1f} s"
        case "warning":
            return f"warning: {data['message']}"
        case _:
            return None


def _setting(start: dict[str, Any]) -> str:
    rows = f"{start['rows']:,} rows" if start["rows"] is not None else "streamed rows"
    return f"{rows}, {start['steps']:,} steps, on {start['device']} in {start['dtype']}"


class Progress(ABC):
    """``stage`` and ``tick`` tell of work that has no events; ``event`` of all the rest."""

    steps = 0

    @abstractmethod
    def stage(self, text: str, *, brief: bool = False) -> None:
        """A new piece of work begins, such as ``loading the base``; ``brief``: often a short one."""

    @abstractmethod
    def tick(self, done: int, total: int | None) -> None:
        """How far the stage has come."""

    @abstractmethod
    def event(self, event: Event) -> None: ...

    def begin(self, step: int, steps: int) -> None:
        """Training begins after ``step`` of ``steps``."""
        self.steps = steps

    def note(self, text: str) -> None:  # noqa: B027  (where nothing is shown, neither is this)
        """Something to know, beside the work that goes on."""

    @abstractmethod
    def close(self) -> None:
        """No more is shown."""


class PlainProgress(Progress):
    """For logs: every stage that is not brief, every event that matters, a step every few seconds."""

    def __init__(self, stream: IO[str], interval: float = PLAIN_SECONDS) -> None:
        self._stream, self._interval = stream, interval
        self._shown = -math.inf
        self._stage = ""
        self._began = (0, time.monotonic())

    def stage(self, text: str, *, brief: bool = False) -> None:
        self._stage = text
        if not brief:
            self._print(text)

    def tick(self, done: int, total: int | None) -> None:
        if time.monotonic() - self._shown >= self._interval:
            self._print(f"{self._stage}: {done:,}" + (f" of {total:,}" if total else ""))

    def begin(self, step: int, steps: int) -> None:
        super().begin(step, steps)
        self._began = (step, time.monotonic())

    def event(self, event: Event) -> None:
        line = describe(event, self.steps)
        if line is None:
            return
        if event.kind == "step":
            ends = event.step == self.steps
            if not ends and time.monotonic() - self._shown < self._interval:
                return
            line += f"  left {duration(self._left(event.step))}  memory {peak_of(event) / 1e9:.2f} GB"
        self._print(line)

    def note(self, text: str) -> None:
        self._print(text)

    def close(self) -> None: ...

    def _left(self, step: int) -> float:
        first, began = self._began
        return (time.monotonic() - began) / max(1, step - first) * (self.steps - step)

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
        self._shown = time.monotonic()


class TerminalProgress(Progress):
    """A bar with loss, tokens/s, learning rate, memory and the time left."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        # Paths and warnings are shown as they are: [x] in one is no markup, :17: no emoji.
        self._console = Console(file=stream, markup=False, emoji=False)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._training = False

    def stage(self, text: str, *, brief: bool = False) -> None:
        self._training = False
        self._start(text, None, "{task.description}")

    def tick(self, done: int, total: int | None) -> None:
        if self._bar is not None and self._task is not None and not self._training:
            self._bar.update(self._task, completed=done, total=total)

    def begin(self, step: int, steps: int) -> None:
        super().begin(step, steps)
        self._training = True
        self._start("training", steps, "{task.description} {task.completed}/{task.total}", step)

    def event(self, event: Event) -> None:
        if event.kind == "step" and self._bar is not None and self._task is not None:
            data = event.fields
            note = (
                f"loss {float(data['loss']):.4f}  {data['tokens_per_second']:,.0f} tokens/s  "
                f"lr {data['learning_rate']:.2e}  {peak_of(event) / 1e9:.2f} GB"
            )
            self._bar.update(self._task, completed=event.step, note=note)
            if event.step == self.steps:  # the bar goes; the last step stays to be read
                self._bar.console.print(describe(event, self.steps), highlight=False)
        elif line := describe(event, self.steps):
            style = "yellow" if event.kind == "warning" else None
            (self._bar.console if self._bar else self._console).print(line, style=style, highlight=False)

    def note(self, text: str) -> None:
        (self._bar.console if self._bar else self._console).print(text, highlight=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, text: str, total: int | None, form: str, done: int = 0) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.close()
        clock = TimeRemainingColumn() if total else TimeElapsedColumn()
        self._bar = RichProgress(
            TextColumn(form, markup=False),
            BarColumn(bar_width=24),
            clock,
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(text, total=total, completed=done, note="")
        self._bar.start()


class Silent(Progress):
    """Nothing is shown."""

    def stage(self, text: str, *, brief: bool = False) -> None: ...

    def tick(self, done: int, total: int | None) -> None: ...

    def event(self, event: Event) -> None: ...

    def close(self) -> None: ...


def make_progress(stream: IO[str] | None = None) -> Progress:
    """A bar where ``stream`` (default: standard error) is a terminal that can, plain lines elsewhere.

    In a notebook, without ``stream``: a bar below its cell.
    """
    if stream is None and in_notebook():
        from packtrain.train.notebook import NotebookProgress

        return NotebookProgress()
    stream = stream or sys.stderr
    can = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    return TerminalProgress(stream) if can else PlainProgress(stream)
