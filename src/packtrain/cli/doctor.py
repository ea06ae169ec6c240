"""``packtrain doctor``: finds in manifests, node pools and policies what goes wrong for others."""

from __future__ import annotations

from typing import Annotated

import typer

from packtrain.cli.output import print_json


def doctor(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH…",
            help="A run file, manifests, a folder of them, what gcloud printed, or - for stdin.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings (or rules) as JSON.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="List all rules.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key of the run file."),
    ] = None,
) -> None:
    """Find in Kubernetes manifests, node pools and IAM policies what goes wrong for others.

    Reads a run file (and judges the manifests that it makes), foreign manifests, and the JSON of
    `gcloud container clusters|node-pools describe` and `gcloud projects get-iam-policy`. Asks nothing of
    the cloud. Ends with 1 if there is an error, with 0 otherwise.
    """
    from packtrain.errors import UsageError
    from packtrain.kube.doctor import show
    from packtrain.kube.doctor.lint import lint
    from packtrain.kube.doctor.read import read
    from packtrain.kube.doctor.rules import ALL

    if rules:
        if as_json:
            print_json(show.rules_to_json(ALL))
        else:
            typer.echo("\n".join(f"{rule.id} {rule.severity:8}{rule.title}" for rule in ALL))
        return
    if not paths:
        raise UsageError("name a run file, a manifest, a folder, or - for standard input")
    report = lint(read(paths, set_ or []))
    if as_json:
        print_json(show.to_json(report))
    else:
        typer.echo("\n".join(show.lines(report)))
    if report.count("error"):
        raise typer.Exit(1)
