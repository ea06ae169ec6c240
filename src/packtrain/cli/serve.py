"""``packtrain serve RUN.yaml``: a published adapter behind vLLM in a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packtrain.cli.output import note, print_json

if TYPE_CHECKING:
    from packtrain.config import RunConfig
    from packtrain.kube.serve import Serving


def serve(
    run: Annotated[Path, typer.Argument(help="The run file.", show_default=False)],
    set_: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a key.", metavar="KEY=VALUE")
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            help="The machine that serves it; all of its GPUs.",
            show_default="the cheapest that holds it",
            metavar="TYPE",
        ),
    ] = None,
    capacity: Annotated[
        str, typer.Option(help="How it is bought: on-demand, spot or flex-start.", metavar="KIND")
    ] = "on-demand",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the manifests as YAML; nothing is asked or made.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until it answers.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Remove it from the cluster.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Serve a run's published adapter with vLLM, in the run's cluster.

    It costs money until --stop removes it. Pods of the cluster reach it, and who may forward a port to it.
    """
    from packtrain.gcp.image import image_reference
    from packtrain.kube.serve import render_serve
    from packtrain.kube.serving import price_sentence, serving_of
    from packtrain.runfile import load

    config = load(run, set_ or []).config
    if stop:
        _stop(config, as_json)
        return
    serving = serving_of(config, image_reference(config), machine, capacity, offline=dry_run, say=note)
    manifests = render_serve(serving)
    note(price_sentence(serving))
    if dry_run:
        from packtrain.kube.manifests import to_yaml

        typer.echo(to_yaml(manifests), nl=False)
    else:
        _start(serving, detach)
    _tell(serving, as_json and not dry_run)


def _start(serving: Serving, detach: bool) -> None:
    from dataclasses import replace

    from packtrain.gcp.commands import Programs
    from packtrain.gcp.image.lookup import resolve_digest
    from packtrain.kube.access import connect
    from packtrain.kube.serving import as_published, published, start, wait

    receipt = published(serving)
    note(f"The adapter of run {receipt.run_id} in {serving.adapter_uri} is served.")
    serving = replace(as_published(serving, receipt), image=resolve_digest(serving.config, Programs()))
    with connect(serving.config) as cluster:
        start(cluster, serving)
        if detach:
            return
        try:
            wait(cluster, serving.config, note)
        except KeyboardInterrupt:
            note("\nIt goes on by itself: packtrain serve RUN waits for it again, --stop removes it.")


def _stop(config: RunConfig, as_json: bool) -> None:
    from packtrain.kube.access import connect
    from packtrain.kube.serving import stop

    with connect(config) as cluster:
        removed = stop(cluster, config)
    if as_json:
        print_json({"name": config.name, "removed": removed})
        return
    for line in removed:
        typer.echo(f"{line} is gone")
    if not removed:
        note(f"Nothing serves {config.name} there.")


def _tell(serving: Serving, as_json: bool) -> None:
    from packtrain.kube.names import serve_name
    from packtrain.kube.serve import how_to_ask

    lines = how_to_ask(serving)
    if as_json:
        named = {"name": serving.config.name, "deployment": serve_name(serving.config.name)}
        print_json(named | {"adapter_uri": serving.adapter_uri, "ask": lines})
        return
    note("Ask it, in two terminals:")
    for line in lines:
        note(f"  {line}")
    note("packtrain serve RUN --stop removes it.")
