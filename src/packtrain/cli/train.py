"""``packtrain train RUN.yaml``: from a run file to a published, verified adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from packtrain.evaluate.answers import Answer
    from packtrain.run.session import Outcome


def train(
    run: Annotated[
        Path, typer.Argument(help="The run file (packtrain init writes one).", show_default=False)
    ],
    run_dir: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/NAME", metavar="DIR")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="Override a key, such as train.epochs=2.", metavar="KEY=VALUE"),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start another run under this name; the old one is moved aside.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes on this machine.", show_default="one a GPU, else 1", min=1, metavar="N"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Fine-tune as a run file says, and publish a verified adapter.

    The same command goes on after any interruption.
    """
    if "RANK" in os.environ:  # one of the ranks that torchrun, or our supervisor, has started
        _train_here(run, run_dir, set_ or [], new=new, json=json)
        return
    from packtrain.run.launch import Nodes, visible_gpus

    ranks = processes or max(1, visible_gpus())
    if ranks == 1 and Nodes.from_environment(os.environ).count == 1:
        _train_here(run, run_dir, set_ or [], new=new, json=json)
        return
    from packtrain.run.supervisor import main as supervise

    options = [*(["--run-dir", str(run_dir)] if run_dir else []), *(["--new"] if new else [])]
    options += [*(["--json"] if json else []), *(part for each in set_ or [] for part in ("-s", each))]
    raise typer.Exit(supervise(["--processes", str(ranks), "--", "train", str(run), *options]))


def _train_here(run: Path, run_dir: Path | None, overrides: list[str], *, new: bool, json: bool) -> None:
    """In this process: the whole run, or the part of one rank."""
    from packtrain.run.outcome import is_preemption, write_outcome
    from packtrain.train.preemption import StopRequest
    from packtrain.train.terminal import outlived_output

    answers: list[Answer] = []
    with outlived_output():
        # Entered before the imports that take time: a stop during them is one like any other.
        with StopRequest(is_preemption) as stop:
            with stop.deferred():
                from packtrain.run.session import run as run_session
                from packtrain.runfile import load
                from packtrain.train.progress import make_progress

            run_file = load(run, overrides)
            outcome = run_session(
                run_file,
                run_dir or Path("runs") / run_file.config.name,
                new=new,
                stop=stop,
                progress=make_progress(),
                on_answers=answers.extend if json else _print_answers,
            )
        if outcome is not None and json:
            _print_json(outcome, answers)
        elif outcome is not None:
            _print(outcome)
    write_outcome(0, "done")


def _print_json(outcome: Outcome, answers: list[Answer]) -> None:
    from dataclasses import asdict

    from packtrain.cli.output import print_json

    print_json(
        {
            "run_dir": str(outcome.run_dir),
            "published": outcome.published,
            "already_finished": outcome.already,
            "answers": [answer.to_json() for answer in answers],
            "receipt": asdict(outcome.receipt),
        }
    )


def _print(outcome: Outcome) -> None:
    receipt, metrics = outcome.receipt, outcome.receipt.metrics
    what = receipt.what
    if outcome.already:
        typer.echo(f"The run {receipt.name} ({receipt.run_id}) is finished; nothing was done.")
        here = outcome.run_dir / "receipt.json"
        # One that was finished on another machine has its receipt where it was published.
        place = here if here.exists() else f"{outcome.published}/receipt.json"
        typer.echo(f"Its receipt is {place}; --new starts another run.")
    if metrics["loss"] is not None:
        typer.echo(f"validation loss: base {metrics['base_loss']:.4f}, {what} {metrics['loss']:.4f}")
    summary = {key: metrics[key] for key in ("train_runtime", "train_loss", "epoch")}
    typer.echo(str({key: round(value, 4) for key, value in summary.items()}))
    if outcome.already:
        return
    from packtrain.cli.output import note
    from packtrain.run.planned import closing_line

    planned = closing_line(outcome.run_dir / "events.jsonl")
    if planned is not None:
        note(planned)
    if outcome.published:
        typer.echo(f"Successfully uploaded model to {outcome.published}")
        upload = "GCS upload" if outcome.published.startswith("gs://") else "upload"
        typer.echo(f"Fine-tuning and {upload} complete!")
    else:
        typer.echo(f"The {what} is in {outcome.run_dir / 'adapter'}")
        typer.echo("Fine-tuning complete!")


def _print_answers(answers: list[Answer]) -> None:
    import sys

    from packtrain.evaluate.answers import render_plain, render_table, score

    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(render_table(answers))
    else:
        typer.echo(render_plain(answers))
    result = score(answers)
    if result is not None:
        typer.echo(str(result))
