"""``packtrain verify-resume RUN.yaml``: proves on this machine that a stop loses nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from packtrain.run.resume_proof import Trial, Verdict


def verify_resume(
    run: Annotated[Path, typer.Argument(help="The run file; a small copy of it is run.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="Override a key, such as train.max_steps=20.", metavar="KEY=VALUE"),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes on this machine.", show_default="one a GPU, else 1", min=1, metavar="N"),
    ] = None,
    time_limit: Annotated[
        str, typer.Option(help="No longer than this, such as 90s, 10m, 2h.", metavar="DURATION")
    ] = "30m",
    json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Prove on your own run file that a run which is stopped and resumed ends the same.

    Nothing of your run, its folder or its bucket is touched.
    """
    from packtrain.config import seconds
    from packtrain.errors import UsageError
    from packtrain.run.resume_proof import prove

    try:
        limit = seconds(time_limit)
    except ValueError as error:
        raise UsageError(f"--time-limit {time_limit}: {error}") from None
    # What runs below is ended, and its folder removed, whoever asks for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    verdict = prove(
        run,
        set_ or [],
        processes=processes,
        seconds=limit,
        on_progress=lambda line: typer.echo(line, err=True),
    )
    if json:
        from packtrain.cli.output import print_json

        print_json(verdict.to_json())
    else:
        _print(verdict)
    verdict.check()


def _print(verdict: Verdict) -> None:
    rows = [("stopped while", "signal", "exit code", "resumed from", "equal")]
    rows += [_row(trial) for trial in verdict.trials]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if verdict.proved:
        exact = verdict.undisturbed.device == "cpu"
        how = "to the bit" if exact else "to the tolerance of a GPU (losses within 0.1%)"
        made = len(verdict.trials) - len(verdict.missed)
        typer.echo(f"Resume is exact: {made} stops, the same losses and weights, {how}.")
        if verdict.missed:
            typer.echo(f"Not tried, for the run had ended before the signal: {', '.join(verdict.missed)}.")


def _row(trial: Trial) -> tuple[str, str, str, str, str]:
    code = trial.exit_code
    ended = "ended first" if code is None else "killed" if code < 0 else str(code)
    resumed = "the start" if trial.resumed_from is None else f"step {trial.resumed_from}"
    resumed = "-" if code is None else resumed
    equal = "yes" if not trial.problems else f"NO: {'; '.join(trial.problems)}"
    return trial.moment, trial.signal, ended, resumed, equal
