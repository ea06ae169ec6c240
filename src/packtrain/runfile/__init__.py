"""Reads a run file: YAML and overrides in, a checked :class:`~packtrain.config.RunConfig` out.

Nothing heavy is imported. Whatever is wrong becomes one sentence a line, with the file, the line
and the key, what is allowed and the nearest known key. ``document`` reads the YAML, ``sentences``
says what is wrong with it, ``places`` finds the files and folders that it names.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.runfile.document import Document, dump_yaml
from packtrain.runfile.keys import MAPS, SECTIONS
from packtrain.runfile.places import find_places, input_path
from packtrain.runfile.sentences import sentences

__all__ = ["RunFile", "dump", "from_data", "input_path", "load", "schema"]


@dataclass(frozen=True)
class RunFile:
    path: Path
    config: RunConfig
    """Checked, with the overrides applied and all local paths absolute."""
    text: str
    """The file as it was read, without the overrides."""


def load(path: Path, overrides: Sequence[str] = (), *, data: bool = True) -> RunFile:
    """Read, override (``train.epochs=2``) and check a run file.

    ``data=False``: for what works without the data, whose files need not be there.
    Raises :class:`~packtrain.errors.ConfigError` with all that is wrong, one sentence a line, and
    :class:`~packtrain.errors.UsageError` for an override that is not ``KEY=VALUE``.
    """
    return _checked(Document.read(path), overrides, data=data)


def from_data(content: Mapping[str, Any], overrides: Sequence[str] = (), *, data: bool = True) -> RunFile:
    """The same of what a run file would hold; its paths count from the working folder.

    Errors: as of :func:`load`, naming keys alone.
    """
    document = Document(Path("run.yaml"), "", copy.deepcopy(dict(content)), {})
    made = _checked(document, overrides, data=data)
    return RunFile(made.path, made.config, dump(made.config))


def _checked(document: Document, overrides: Sequence[str], *, data: bool) -> RunFile:
    for override in overrides:
        document.override(override)
    try:
        config = RunConfig.model_validate(_without_empty_sections(document.data))
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error, document))) from None
    return RunFile(document.path, find_places(config, document, data=data), document.text)


def schema() -> dict[str, Any]:
    """The JSON Schema of a run file, with descriptions and defaults, for editors to complete it."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "packtrain run file"}
    return {**RunConfig.model_json_schema(), **head}


def dump(config: RunConfig, header: str = "") -> str:
    """The whole config as YAML that :func:`load` reads back; ``header`` becomes comment lines."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + dump_yaml(config.model_dump(mode="json"))


def _without_empty_sections(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A section, or a map, whose keys are all commented out reads as null: its defaults are meant."""
    cleaned: dict[str, Any] = {}
    for key, value in data.items():
        dotted = f"{prefix}{key}"
        if dotted in SECTIONS | MAPS and value is None:
            cleaned[key] = {}
        elif dotted in SECTIONS and isinstance(value, dict):
            cleaned[key] = _without_empty_sections(value, f"{dotted}.")
        else:
            cleaned[key] = value
    return cleaned
