"""The steps that only look: JobSet, Kueue and GPUDirect's helpers, which are the user's to install."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from typing import Any

from packtrain.gcp import kubectl
from packtrain.gcp.ask import ask
from packtrain.gcp.commands import Runner
from packtrain.gcp.looks import cluster_is_there
from packtrain.gcp.site import Site
from packtrain.gcp.steps import Seen, Step


def addon_steps(site: Site) -> list[Step]:
    """Those that this run needs."""
    wanted = ["jobset"] if site.nodes > 1 else []
    wanted += ["kueue"] if site.queue else []
    wanted += site.fabric.addons if site.fabric else ()
    table = tomllib.loads(resources.files("packtrain.gcp").joinpath("addons.toml").read_text())
    return [_step(site, key, table[key]) for key in wanted]


def _step(site: Site, key: str, facts: dict[str, Any]) -> Step:
    def look(runner: Runner, _: bool) -> Seen:
        if not cluster_is_there(runner, site):
            return Seen("later", "when the cluster is there")
        if "daemonset" in facts:
            namespace, name = facts["daemonset"]
            found = ask(runner, kubectl.get("daemonset", name, namespace))
            return Seen("there", "is installed") if found else _missing(facts)
        definition = ask(runner, kubectl.get("customresourcedefinition", facts["crd"]))
        return _missing(facts) if definition is None else _version(runner, facts, definition)

    return Step(key, facts["title"], facts["reason"], look)


def _missing(facts: dict[str, Any]) -> Seen:
    return Seen("yours", "is not installed", f"install it: {facts['install']}")


def _version(runner: Runner, facts: dict[str, Any], definition: dict[str, Any]) -> Seen:
    served = [each["name"] for each in definition["spec"]["versions"] if each.get("served")]
    if facts["api"] not in served:
        return Seen("yours", f"is too old: it serves {', '.join(served)}", f"renew it: {facts['install']}")
    namespace, name = facts["deployment"]
    found = version_of(ask(runner, kubectl.get("deployment", name, namespace)), definition)
    if found is None:
        return Seen("there", "is installed, in a version that it does not tell")
    if _numbers(found) < _numbers(facts["least"]):
        return Seen(
            "yours",
            f"is version {found}, and {facts['least']} is needed",
            f"renew it: {facts['install']}",
        )
    return Seen("there", f"version {found}")


def version_of(deployment: dict[str, Any] | None, definition: dict[str, Any]) -> str | None:
    """From the controller's image, else from the definition's label."""
    label = (definition["metadata"].get("labels") or {}).get("app.kubernetes.io/version", "")
    containers = (deployment or {}).get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
    tags = [each.get("image", "").partition("@")[0].rpartition(":")[2] for each in containers]
    versions = (re.match(r"v?(\d+\.\d+\.\d+)", each) for each in (*tags, label))
    return next((found[1] for found in versions if found), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in version.split("."))
