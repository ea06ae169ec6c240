"""``packtrain submit RUN.yaml``: the run in a cluster, followed to its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packtrain.cli.output import note, print_json

if TYPE_CHECKING:
    from packtrain.artifacts.receipt import Receipt
    from packtrain.config import RunConfig


def submit(
    run: Annotated[Path, typer.Argument(help="The run file.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="Override a key, such as cluster.nodes=2.", metavar="KEY=VALUE"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the manifests as YAML; nothing is asked or made.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the manifests to a file.", metavar="FILE", show_default=False)
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Come back when the job is made.")] = False,
    wait_limit: Annotated[
        str | None,
        typer.Option(
            help="Give up, and take the job back, after waiting so long for nodes, such as 2h.",
            metavar="DURATION",
            show_default=False,
        ),
    ] = None,
    no_preflight: Annotated[
        bool, typer.Option("--no-preflight", help="Do not ask from a pod first what it may use.")
    ] = False,
    no_plan: Annotated[
        bool, typer.Option("--no-plan", help="Do not ask the planner first whether it fits.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Run the pods here first, with a tiny model.")
    ] = False,
    new: Annotated[bool, typer.Option("--new", help="Start another run under this name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run in a cluster as a run file says: checked first, made, followed to its end.

    The same command follows a run that goes on, and goes on with one that was stopped.
    """
    from packtrain.kube.submit import Options, World
    from packtrain.kube.submit import submit as start
    from packtrain.runfile import load

    config = load(run, set_ or []).config
    limit = _seconds(wait_limit)
    if dry_run:
        _show(config, output)
        return
    if rehearse:
        from packtrain.kube.rehearse import rehearse as run_here

        run_here(config, say=lambda line: note(f"rehearsal: {line}")).check()
    world = World(note, on_manifests=lambda made: _write(made, output))
    submitted = start(config, Options(new, not no_preflight, not no_plan, detach, limit), world)
    if as_json:
        print_json(submitted.to_json())
    elif submitted.receipt is not None:
        _tell(submitted.receipt, config)


def _seconds(duration: str | None) -> float | None:
    from packtrain.config import seconds
    from packtrain.errors import UsageError

    try:
        return None if duration is None else seconds(duration)
    except ValueError:
        raise UsageError(f"--wait-limit: {duration} is no duration, such as 90s, 30m or 2h") from None


def _show(config: RunConfig, output: Path | None) -> None:
    from packtrain.kube.cost import budget_sentence, price_sentence
    from packtrain.kube.manifests import render, to_yaml
    from packtrain.kube.submit import dry_run

    launch = dry_run(config)
    manifests = render(launch)
    if output is None:
        typer.echo(to_yaml(manifests), nl=False)
    _write(manifests, output)
    note(price_sentence(config))
    note(budget_sentence(config))
    note("Nothing was asked: `packtrain plan` says whether it fits, how long it takes and what it costs.")
    note("Nothing was made: submit pins the revisions and the image's digest.")


def _write(manifests: list[dict[str, Any]], output: Path | None) -> None:
    from packtrain.kube.manifests import to_yaml
    from packtrain.rundir import write_atomically

    if output is not None:
        write_atomically(output.absolute(), to_yaml(manifests).encode())
        note(f"The manifests are in {output}")


def _tell(receipt: Receipt, config: RunConfig) -> None:
    metrics = receipt.metrics
    if metrics.get("loss") is not None:
        typer.echo(f"validation loss: base {metrics['base_loss']:.4f}, {receipt.what} {metrics['loss']:.4f}")
    typer.echo(f"{receipt.steps:,} steps, {receipt.tokens:,} tokens; run {receipt.run_id}")
    typer.echo(f"The verified {receipt.what} is in {config.output.uri}")
    note(f"Bring it here: packtrain fetch {config.output.uri} {config.name}-adapter")
