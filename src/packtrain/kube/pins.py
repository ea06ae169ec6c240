"""The pinned versions of what is not ours (``pins.toml``)."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Tcpxo:
    """GPUDirect-TCPXO: the plugin that is installed on the node, and its daemon in the pod."""

    plugin: str
    daemon: str
    """References with tags: the newest pair."""
    pairs: tuple[tuple[str, str], ...]
    """Tags of plugin and daemon that were released together, the newest first."""


def tcpxo() -> Tcpxo:
    pins = _pins()["tcpxo"]
    pairs = tuple((plugin, daemon) for plugin, daemon in pins["pairs"])
    plugin, daemon = pairs[0]
    return Tcpxo(
        plugin=f"{pins['plugin']}:{plugin}",
        daemon=f"{pins['daemon']}:{daemon}",
        pairs=pairs,
    )


def tcpx_daemon() -> str:
    """The image of GPUDirect-TCPX's receive daemon."""
    return str(_pins()["tcpx"]["daemon"])


def vllm_image() -> str:
    return str(_pins()["vllm"]["image"])


@functools.cache
def _pins() -> dict[str, Any]:
    return tomllib.loads(resources.files("packtrain.kube").joinpath("pins.toml").read_text(encoding="utf-8"))
