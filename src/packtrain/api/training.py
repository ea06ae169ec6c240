"""``packtrain.train(run)``: the whole run in this process, as ``packtrain train`` has it in its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.api.guest import alone, put_back, sentences
from packtrain.api.page import table
from packtrain.api.reading import Overrides, Run, read, texts
from packtrain.artifacts.receipt import Receipt
from packtrain.errors import UsageError
from packtrain.evaluate.answers import Answer
from packtrain.rundir import RunDir, stream
from packtrain.runfile import RunFile

if TYPE_CHECKING:
    from packtrain.api.adapter import Adapter


@dataclass(frozen=True, repr=False)
class Trained:
    """A run that has ended well."""

    run_dir: Path
    """The run's folder: events, checkpoints, report."""
    receipt: Receipt
    """How the adapter came about, and what each of its files is; of them ``metrics`` is a part."""
    published: str | None
    """Where the adapter went (``output.uri``); None where it stays in the run's folder."""
    already_finished: bool
    """It had been finished before, and nothing was done now."""
    answers: tuple[Answer, ...] = ()
    """To ``evaluate.prompts``, before and after."""

    @property
    def folder(self) -> Path | None:
        """Of the adapter, or the model; None where another machine made and published it."""
        folder = RunDir(self.run_dir).adapter
        return folder if folder.is_dir() else None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """``base_loss`` and ``loss`` (validation, nats a token), ``train_loss``, ``train_runtime`` (seconds),
        …; None for what was not measured."""
        return self.receipt.metrics

    def load(self, *, base: str | None = None, progress: bool = True) -> Adapter:
        """The adapter, ready to answer: :meth:`packtrain.Adapter.load`."""
        from packtrain.api.adapter import Adapter

        return Adapter.load(self, base=base, progress=progress)

    def __repr__(self) -> str:
        told = [f"{key}={value!r}" for key, value in self._facts().items()]
        return f"Trained({', '.join(told)})"

    def _repr_html_(self) -> str:
        found = table([(key, value) for key, value in self._facts().items()])
        if self.answers:
            rows = [(answer.prompt, answer.base, answer.adapter) for answer in self.answers]
            found += table(rows, ("prompt", "before", "after"))
        return found

    def _facts(self) -> dict[str, Any]:
        metrics = {key: self.metrics.get(key) for key in ("base_loss", "loss", "train_loss")}
        return {
            "name": self.receipt.name,
            "run_id": self.receipt.run_id,
            "steps": self.receipt.steps,
            **{key: round(value, 4) for key, value in metrics.items() if value is not None},
            self.receipt.what: self.published or str(self.folder),
        }


@sentences()
def train(
    run: Run,
    overrides: Overrides = (),
    *,
    run_dir: str | os.PathLike[str] | None = None,
    new: bool = False,
    processes: int | None = None,
    progress: bool = True,
) -> Trained:
    """Fine-tune as ``run`` says, check the adapter, publish it; the same call goes on after any interruption.

    ``run``, ``overrides``: as of :func:`packtrain.load`. ``run_dir``: the run's folder, by default
    ``runs/NAME``. ``new``: start another run under this name; the old one is moved aside. ``processes``: on
    this machine, by default one a GPU; a single one is this process, several are started beside it.

    Ctrl-C, or a notebook's interrupt, and SIGTERM end the step, save and raise
    :class:`~packtrain.errors.PreemptedError` (in the main thread; elsewhere signals are not heard); a
    second one raises KeyboardInterrupt at once, and what came after the last checkpoint is lost. Errors: any
    of :mod:`packtrain.errors`; the process is never ended.
    """
    run_file = read(run, texts(overrides))
    folder = Path("runs") / run_file.config.name if run_dir is None else Path(run_dir).expanduser()
    ranks = _ranks(processes)
    with alone():
        if ranks > 1:
            return _train_beside(run_file, folder, ranks, new=new, progress=progress)
        with put_back():
            return _train_here(run_file, folder, new=new, progress=progress)


def _train_here(run_file: RunFile, folder: Path, *, new: bool, progress: bool) -> Trained:
    from packtrain.train.preemption import StopRequest

    answers: list[Answer] = []
    # Entered before the imports that take time: a stop during them is one like any other.
    with StopRequest(guest=True) as stop:
        with stop.deferred():
            from packtrain.run.heavy import heavy_imports

            with heavy_imports():
                from packtrain.run.session import run as run_session
                from packtrain.train.progress import Silent, make_progress

        outcome = run_session(
            run_file,
            folder,
            new=new,
            stop=stop,
            progress=make_progress() if progress else Silent(),
            on_answers=answers.extend,
        )
    assert outcome is not None  # there is one process
    if outcome.already:
        answers = _answers_before(outcome.run_dir)
    # As everybody else reads it.
    receipt = Receipt.from_json(outcome.receipt.to_json())
    return Trained(outcome.run_dir, receipt, outcome.published, outcome.already, tuple(answers))


def _train_beside(run_file: RunFile, folder: Path, ranks: int, *, new: bool, progress: bool) -> Trained:
    from packtrain.api.processes import train_beside
    from packtrain.train.progress import Silent, make_progress

    shown = make_progress() if progress else Silent()
    try:
        said = train_beside(run_file, folder, processes=ranks, new=new, progress=shown)
    finally:
        shown.close()
    receipt = Receipt.from_json(json.dumps(said["receipt"]).encode())
    answers = tuple(map(_answer, said["answers"])) or tuple(_answers_before(folder))
    return Trained(folder, receipt, said["published"], said["already_finished"], answers)


def _answers_before(run_dir: Path) -> list[Answer]:
    """As the run's events have them."""
    told: list[dict[str, Any]] = []
    for event in stream(RunDir(run_dir).events_file):
        if event.kind == "answers":
            told = event.fields["answers"]
    return [_answer(each) for each in told]


def _answer(told: Mapping[str, Any]) -> Answer:
    return Answer(told["prompt"], told["base"], told["adapter"], tuple(told["expect"]))


def _ranks(processes: int | None) -> int:
    """How many processes. Errors: :class:`UsageError` where this is one of several already."""
    from packtrain.run.launch import Nodes, visible_gpus

    if "RANK" in os.environ or Nodes.from_environment(os.environ).count > 1:
        raise UsageError(
            "packtrain.train starts the processes of a run, and this is one of several already",
            hint="packtrain train RUN is what torchrun, or a pod, starts in each",
        )
    if processes is not None and processes < 1:
        raise UsageError(f"processes is {processes}; a run has one or more")
    return processes or max(1, visible_gpus())
