"""The pinned versions of what is not ours (``pins.toml``): images, JobSet, Kueue."""

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
    installer: str
    """The DaemonSet that installs the plugin."""


@dataclass(frozen=True)
class Release:
    """A controller that the cluster has to have."""

    version: str
    minimum: str
    manifest: str
    """What ``kubectl apply --server-side -f`` installs."""


def tcpxo() -> Tcpxo:
    pins = _pins()["tcpxo"]
    pairs = tuple((plugin, daemon) for plugin, daemon in pins["pairs"])
    plugin, daemon = pairs[0]
    return Tcpxo(
        plugin=f"{pins['plugin']}:{plugin}",
        daemon=f"{pins['daemon']}:{daemon}",
        pairs=pairs,
        installer=pins["installer"],
    )


def jobset() -> Release:
    return _release("jobset")


def kueue() -> Release:
    return _release("kueue")


def vllm_image() -> str:
    return str(_pins()["vllm"]["image"])


def _release(name: str) -> Release:
    pins = _pins()[name]
    return Release(version=pins["version"], minimum=pins["minimum"], manifest=pins["manifest"])


@functools.cache
def _pins() -> dict[str, Any]:
    return tomllib.loads(resources.files("packtrain.kube").joinpath("pins.toml").read_text(encoding="utf-8"))
