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
    template: Annotated[
        str | None, typer.Argument(help=f"One of: {', '.join(TEMPLATES)}.  [default: quickstart]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it.  [default: TEMPLATE.yaml]")
    ] = None,
    other: Annotated[
        Path | None,
        typer.Option("--from", help="A config of torchtune, Axolotl, LLaMA-Factory or TRL to translate."),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, help="With --from: how many GPUs it ran on.  [default: 1]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a commented run file to begin with.

    `quickstart` trains a small model on sample data on a laptop, in minutes; `llama3-8b-dolly` is
    Llama 3 8B on databricks-dolly-15k, for a GPU and a bucket. `--from` makes one of a supervised
    fine-tuning config of torchtune, Axolotl, LLaMA-Factory or TRL.
    """
    if other is not None:
        if template is not None:
            raise UsageError(f"{template}: a template and --from exclude each other")
        _init_from(other, output, devices, force=force, as_json=as_json)
        return
    if devices is not None:
        raise UsageError("--devices belongs to --from")
    template = template or "quickstart"
    if template not in TEMPLATES:
        from packtrain.runfile.keys import nearest_name

        near = nearest_name(template, TEMPLATES)
        meant = f"; did you mean {near}?" if near else ""
        raise UsageError(f"{template}: unknown template{meant}", hint=f"there are {' and '.join(TEMPLATES)}")
    target = output or Path(f"{template}.yaml")
    if target.is_dir():
        target = target / f"{template}.yaml"
    files = {target: f"{template}.yaml"} | {target.with_name(name): name for name in TEMPLATES[template]}
    _refuse_existing(list(files), force=force)
    from packtrain.rundir import write_atomically

    for path, name in files.items():
        write_atomically(path, resources.files("packtrain.examples").joinpath(name).read_bytes())
    if as_json:
        print_json({"run_file": str(target), "files": [str(path) for path in files]})
        return
    typer.echo("\n".join(f"wrote {path}" for path in files))
    typer.echo(f"next: packtrain data {target} --preview 3, then packtrain train {target}")


def _init_from(other: Path, output: Path | None, devices: int | None, *, force: bool, as_json: bool) -> None:
    from packtrain.rundir import write_atomically
    from packtrain.runfile.elsewhere import translate

    made = translate(other, devices)
    target = output or Path(f"{made.name}.yaml")
    if target.is_dir():
        target = target / f"{made.name}.yaml"
    if target.exists() and target.samefile(other):
        raise ConflictError(f"{target}: is the config itself", hint="choose another place with --output")
    _refuse_existing([target], force=force)
    write_atomically(target, made.text.encode())
    if as_json:
        left = [{"what": what, "why": why} for what, why in made.left]
        print_json({"run_file": str(target), "files": [str(target)], "from": made.kind, "not_carried": left})
        return
    typer.echo(
        f"wrote {target} ({made.kind}'s {other.name}; {len(made.left)} things not carried over, listed in it)"
    )
    typer.echo(f"next: packtrain data {target} --preview 3, then packtrain plan {target}")


def _refuse_existing(files: list[Path], *, force: bool) -> None:
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise ConflictError(
            f"{' and '.join(there)}: {'is' if len(there) == 1 else 'are'} already there",
            hint="choose another place with --output, or overwrite with --force",
        )
