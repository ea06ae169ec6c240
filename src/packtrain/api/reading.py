"""From what a caller has of a run (a file, a mapping, a checked config) to its checked settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from packtrain.api.guest import sentences
from packtrain.config import RunConfig
from packtrain.runfile import RunFile, from_data
from packtrain.runfile import load as load_file

Run: TypeAlias = "RunConfig | Mapping[str, Any] | str | os.PathLike[str]"
"""A checked run, the content of a run file, or the path of one."""
Overrides: TypeAlias = "Mapping[str, Any] | Iterable[str]"
"""``{"train.epochs": 2}``, or what follows ``-s``: ``["train.epochs=2"]``."""


@sentences()
def load(run: Run, overrides: Overrides = ()) -> RunConfig:
    """The checked settings of a run, with ``overrides`` applied and all local paths absolute.

    ``run``: the path of a run file, or its content as a mapping, whose paths count from the working folder.
    Raises :class:`~packtrain.errors.ConfigError` with all that is wrong, a sentence a line, each with the
    file, the line, the key and what is allowed.
    """
    return read(run, list(texts(overrides))).config


def read(run: Run, overrides: Iterable[str], *, data: bool = True) -> RunFile:
    """As :func:`packtrain.runfile.load`, of whatever a caller has."""
    if isinstance(run, RunConfig):
        return from_data(run.model_dump(mode="json"), list(overrides), data=data)
    if isinstance(run, Mapping):
        return from_data(plain(run), list(overrides), data=data)
    return load_file(Path(run), list(overrides), data=data)


def texts(overrides: Overrides) -> Iterable[str]:
    """Each as ``KEY=VALUE``; a value as JSON, which is YAML."""
    if isinstance(overrides, str):  # else each of its letters were one
        return [overrides]
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(plain(value), default=str)}" for key, value in overrides.items()]
    return overrides


def plain(value: Any) -> Any:
    """As YAML would have read it: a path is a text, a tuple a list."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
