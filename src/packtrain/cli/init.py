"""``packtrain init``: writes a commented run file, and the sample data that it names."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from packtrain.cli.output import print_json
from packtrain.errors import ConflictError, UsageError

#: Template -> the files that come with it, beside the run file.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "quickstart": ("packtrain-facts.jsonl", "packtrain-facts-validation.jsonl"),
    "llama3-8b-dolly": (),
}


def init(
    template: Annotated[str, typer.Argument(help=f"One of: {', '.join(TEMPLATES)}.")] = "quickstart",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it.  [default: TEMPLATE.yaml]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a commented run file to begin with.

    `quickstart` trains a small model on sample data on a laptop, in minutes; `llama3-8b-dolly` is
    Llama 3 8B on databricks-dolly-15k, for a GPU and a bucket.
    """
    if template not in TEMPLATES:
        from packtrain.runfile.keys import nearest_name

        near = nearest_name(template, TEMPLATES)
        meant = f"; did you mean {near}?" if near else ""
        raise UsageError(f"{template}: unknown template{meant}", hint=f"there are {' and '.join(TEMPLATES)}")
    target = output or Path(f"{template}.yaml")
    if target.is_dir():
        target = target / f"{template}.yaml"
    files = {target: f"{template}.yaml"} | {target.with_name(name): name for name in TEMPLATES[template]}
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise ConflictError(
            f"{' and '.join(there)}: {'is' if len(there) == 1 else 'are'} already there",
            hint="choose another place with --output, or overwrite with --force",
        )
    from packtrain.rundir import write_atomically

    for path, name in files.items():
        write_atomically(path, resources.files("packtrain.examples").joinpath(name).read_bytes())
    if as_json:
        print_json({"run_file": str(target), "files": [str(path) for path in files]})
        return
    typer.echo("\n".join(f"wrote {path}" for path in files))
    typer.echo(f"next: packtrain data {target} --preview 3, then packtrain train {target}")
