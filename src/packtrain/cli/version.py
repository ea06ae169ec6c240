"""``packtrain version``: what a bug report needs to say."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Annotated

import typer

from packtrain import __version__
from packtrain.cli.output import print_json

#: The packages that decide how a run goes.
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "huggingface_hub",
    "pyarrow",
    "numpy",
    "pydantic",
    "typer",
    "rich",
    "google-cloud-storage",
    "gguf",
)


def version(
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Also Python, packages, processors and GPUs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the version, and with -v what a bug report needs."""
    facts: dict[str, object] = {"packtrain": __version__}
    if verbose:
        facts |= _machine()
    if as_json:
        print_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        typer.echo(f"{name:<{width}} {shown}" if verbose else f"{name} {shown}")


def _machine() -> dict[str, object]:
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        **{package: _installed(package) for package in PACKAGES},
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "gpus": _gpus(),
    }


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> list[str] | str:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of it is missing
        return f"unknown: torch cannot be imported ({error})"
    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*names, f"CUDA {torch.version.cuda}"]
