"""An adapter on its way out into other tools: found, put together with its base, and what goes where.

A whole model, such as a full fine-tuning makes, goes the same ways, without anything to merge.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packtrain.artifacts.deltas import Deltas
from packtrain.artifacts.locate import LocatedAdapter, base_config
from packtrain.artifacts.merge import MergedModel, write_merged
from packtrain.artifacts.merged import Merged
from packtrain.artifacts.streamed import layout, skeleton
from packtrain.errors import ConfigError
from packtrain.model.shards import Shards
from packtrain.model.weights import BaseFiles, resolve_base

Say = Callable[[str], None]


def put_together(located: LocatedAdapter, base: str | None, *, say: Say) -> tuple[Merged, BaseFiles]:
    """The adapter and its base, whose weights stay on disk. ``base``: as for :func:`base_config`."""
    files = resolve_base(base_config(located, base), on_progress=say)
    deltas = Deltas.of(located.folder)
    merged = Merged(Shards.of(files.folder, files.source), deltas, layout(skeleton(files)))
    return merged, files


def export_merged(located: LocatedAdapter, base: str | None, folder: Path, *, say: Say) -> MergedModel:
    """A folder with the merged model. Errors: those of :func:`put_together` and :func:`write_merged`."""
    if located.full:
        raise ConfigError(
            f"{located.folder}: is a whole model, with nothing to merge", hint="its folder is what you want"
        )
    merged, files = put_together(located, base, say=say)
    return write_merged(merged, located, files, folder, say=say)
