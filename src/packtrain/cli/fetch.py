"""``packtrain fetch``: bring an adapter back and verify it against its receipt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packtrain.cli.output import note, print_json

if TYPE_CHECKING:
    from packtrain.artifacts.publish import FileProgress


def fetch(
    uri: Annotated[str, typer.Argument(metavar="URI", help="gs://BUCKET/PREFIX or a folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring an adapter back from a bucket (or a folder) and verify it against its receipt."""
    from packtrain.artifacts.fetch import fetch as bring
    from packtrain.storage import open_storage

    with closing(open_storage(uri)) as source, _progress() as on_progress:
        fetched = bring(source, folder, on_progress=on_progress)
    if as_json:
        print_json(fetched)
        return
    width = max(map(len, fetched["files"]), default=0)
    for name, file in fetched["files"].items():
        state = "fetched, verified" if file["fetched"] else "was there, verified"
        typer.echo(f"{name:<{width}}  {file['bytes']:>15,} bytes  sha256 {file['sha256'][:12]}…  {state}")
    typer.echo(f"Adapter of run {fetched['run_id']} verified in {fetched['folder']}")
    if fetched["ignored"]:
        more = ", …" if len(fetched["ignored"]) > 3 else ""
        names = ", ".join(fetched["ignored"][:3]) + more
        note(f"not in the receipt, and left where it is: {names} ({len(fetched['ignored'])})")


@contextmanager
def _progress() -> Iterator[FileProgress | None]:
    """A bar for each file, where somebody is looking."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield report
