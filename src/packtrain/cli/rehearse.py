"""``packtrain rehearse RUN.yaml``: the run's pods on this machine, before they cost anything."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from packtrain.kube.rehearse import Rehearsal


def rehearse(
    run: Annotated[Path, typer.Argument(help="The run file; a tiny copy of it is run.", show_default=False)],
    preempt: Annotated[
        bool, typer.Option("--preempt", help="Then once more, with a pod taken away in mid-training.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="Override a key, such as cluster.nodes=2.", metavar="KEY=VALUE"),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(help="Pods.", show_default="cluster.nodes", min=1, metavar="N"),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(help="Processes in a pod.", show_default="2 for one node, else 1", min=1, metavar="N"),
    ] = None,
    time_limit: Annotated[
        str, typer.Option(help="No longer than this, such as 90s or 10m.", metavar="DURATION")
    ] = "10m",
    json: Annotated[bool, typer.Option("--json", help="Print what was seen as JSON.")] = False,
) -> None:
    """Run a run's rendered pods on this machine, with a tiny model and a stand-in bucket.

    What would fail in the cluster without a GPU's doing fails here. Nothing is asked of the cloud.
    """
    from packtrain import runfile
    from packtrain.config import seconds
    from packtrain.errors import UsageError
    from packtrain.kube.rehearse import rehearse as run_pods

    try:
        limit = seconds(time_limit)
    except ValueError as error:
        raise UsageError(f"--time-limit {time_limit}: {error}") from None
    # What runs below is ended, and its folder removed, whoever asks for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rehearsal = run_pods(
        runfile.load(run, set_ or []).config,
        preempt=preempt,
        nodes=nodes,
        ranks=ranks,
        seconds=limit,
        say=lambda line: typer.echo(line, err=True),
    )
    if json:
        from packtrain.cli.output import print_json

        print_json(rehearsal.to_json())
    else:
        _print(rehearsal)
    rehearsal.check()


def _print(rehearsal: Rehearsal) -> None:
    nodes = f"{rehearsal.nodes} × {rehearsal.machine}" if rehearsal.nodes > 1 else rehearsal.machine
    ranks = "1 rank" if rehearsal.ranks == 1 else f"{rehearsal.ranks} ranks"
    typer.echo(f"{rehearsal.name}: a {rehearsal.kind} for {nodes}, {ranks} in a pod")
    rows = [("run", "pod", "exit code", "what Kubernetes does")]
    for name, result in (("undisturbed", rehearsal.undisturbed), ("preempted", rehearsal.preempted)):
        if result is not None:
            for each in result.story.pods:
                rows.append((name, each.pod.name, str(each.pod.exit_code), each.action))
            rows += [(name, "(all)", "", restart) for restart in result.story.restarts]
    typer.echo()
    _table(rows)
    typer.echo()
    _table([("in the run file", "here"), *rehearsal.changes.items()])
    typer.echo()
    differences = [(each.what, each.cluster, each.here) for each in rehearsal.differences]
    _table([("otherwise than", "in the cluster", "here"), *differences])
    typer.echo()
    typer.echo(rehearsal.verdict())


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
