"""``packtrain init --from``: a run file that does what a config of another trainer does.

``detect`` tells whose file it is, one file a trainer translates it, ``write`` puts the run file
down. Everything but the reading of files is a function of the text alone; nothing heavy is imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import ConfigError
from packtrain.runfile.document import Document
from packtrain.runfile.elsewhere import axolotl, llama_factory, torchtune, trl
from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.detect import (
    ALL,
    AXOLOTL,
    LLAMA_FACTORY,
    TORCHTUNE,
    detect,
    refuse_other_methods,
)
from packtrain.runfile.elsewhere.source import Source
from packtrain.runfile.elsewhere.write import check, render, run_name

__all__ = ["ALL", "Translated", "translate"]


@dataclass(frozen=True)
class Translated:
    kind: str
    """Whose config it was: one of :data:`ALL`."""
    name: str
    """The run's name."""
    text: str
    """The run file."""
    left: tuple[tuple[str, str], ...]
    """What could not be carried over, and why."""


def translate(path: Path, devices: int | None = None) -> Translated:
    """Read another trainer's config; ``devices``: how many it was meant for, which no config says.

    Errors: ConfigError with one sentence a problem, where a line is to blame with the line.
    """
    document = Document.read(path, "a config")
    kind = detect(document)
    refuse_other_methods(kind, document)
    source = Source(document)
    name = run_name(path.stem)
    found = _translated(kind, source, devices, path)
    found.values = {"name": name, **found.values}
    found.name_defaults(source)
    check(found, document)
    return Translated(kind, name, render(found, kind, path.name), tuple(dict.fromkeys(found.left)))


def _translated(kind: str, source: Source, devices: int | None, path: Path) -> Carried:
    if kind == TORCHTUNE:
        return torchtune.translate(source, devices)
    if kind == AXOLOTL:
        return axolotl.translate(source, devices)
    if kind == LLAMA_FACTORY:
        return llama_factory.translate(source, devices, _data_sets(source, path))
    return trl.translate(source, devices)


def _data_sets(source: Source, path: Path) -> dict[str, Any] | None:
    """LLaMA-Factory's dataset_info.json, in the working folder or beside the config; None where it is not."""
    folder = source.text("dataset_dir", "data") or "data"
    for place in (Path(folder), path.parent / folder):
        file = place / "dataset_info.json"
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{file}: must be keys and values, a data set each")
        return found
    return None
