"""``packtrain status [RUN.yaml]``: how a run stands, or all runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packtrain.cli.output import note, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packtrain.kube.status import Standing
    from packtrain.run.local_runs import LocalRun


def status(
    run: Annotated[
        Path | None, typer.Argument(help="The run file; without it, all runs.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a key.", metavar="KEY=VALUE")
    ] = None,
    namespace: Annotated[
        str, typer.Option(help="Without a run file: of this namespace alone.", show_default="all")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how a run stands, from the cluster and its bucket.

    Without a run file: all runs in runs/ here, and in the clusters that packtrain has been
    in from this machine.
    """
    from packtrain.errors import ConfigError
    from packtrain.kube.access import connect
    from packtrain.kube.status import known_clusters, of_cluster, of_run
    from packtrain.run.local_runs import local_runs
    from packtrain.runfile import load

    if run is not None:
        config = load(run, set_ or []).config
        standing = of_run(config, lambda: connect(config))
        _print_one(standing, as_json=as_json)
        return
    here = [] if namespace else local_runs()
    try:
        found = [each for cluster in known_clusters(namespace) for each in of_cluster(cluster)]
    except ConfigError:  # in no cluster yet
        if not here:
            raise
        found = []
    _print([*here, *found], as_json=as_json)


def _print_one(standing: Standing, *, as_json: bool) -> None:
    if as_json:
        print_json(standing.to_json())
        return
    typer.echo(f"{standing.name}  {standing.sentence}")
    _details(standing)


def _print(found: Sequence[Standing | LocalRun], *, as_json: bool) -> None:
    if as_json:
        print_json([each.to_json() for each in found])
        return
    if not found:
        note("No run is in any of the clusters.")
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        typer.echo(f"{each.name:<{width}}  {each.sentence}  {each.place}")


def _details(standing: Standing) -> None:
    told = standing.to_json()
    lines = [f"run {standing.run_id}" if standing.run_id else ""]
    lines += [f"node {pod['index']}: {pod['name']} on {pod['node'] or 'no node yet'}" for pod in told["pods"]]
    progress = told["progress"]
    if progress is not None and progress["attempt"]:
        of = f" of {progress['steps']}" if progress["steps"] else ""
        loss = f", loss {float(progress['loss']):.4f}" if progress["loss"] is not None else ""
        lines.append(f"step {progress['step']}{of}{loss} (attempt {progress['attempt']})")
        if progress["checkpoint"] is not None:
            lines.append(f"last checkpoint: step {progress['checkpoint']}")
    lines += [f"state in {told['run_uri']}" if told["run_uri"] else ""]
    for line in filter(None, lines):
        typer.echo(f"  {line}")
    if told["hint"]:
        note(f"hint: {told['hint']}")
    for unseen in standing.notes:
        note(f"not seen: {unseen}" + (f"\n  hint: {unseen.hint}" if unseen.hint else ""))
