"""What a pod gets for the trackers of its run file: their variables by a Secret, and nothing otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from launches import config_of, launch_of

from packtrain.kube.manifests import render, to_yaml
from packtrain.kube.names import TRACKERS_SECRET
from packtrain.kube.preflight import render_preflight


def by_secret(manifest: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Variables of a pod that come from the trackers' Secret, with the key and whether it may be absent."""
    spec = manifest["spec"]
    spec = spec["replicatedJobs"][0]["template"]["spec"] if "replicatedJobs" in spec else spec
    found = {}
    for each in spec["template"]["spec"]["containers"][0]["env"]:
        reference = each.get("valueFrom", {}).get("secretKeyRef", {})
        if reference.get("name") == TRACKERS_SECRET:
            found[each["name"]] = (reference["key"], reference["optional"])
    return found


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_trackers_that_are_named_have_their_variables(nodes: int) -> None:
    config = config_of(report={"to": ["wandb", "trackio"]}, cluster={"nodes": nodes})
    for manifests in (render(launch_of(config)), render_preflight(launch_of(config))):
        found = by_secret(manifests[1])
        assert found.keys() >= {"WANDB_API_KEY", "WANDB_PROJECT", "TRACKIO_SPACE_ID"}
        assert all(name == key and optional for name, (key, optional) in found.items())
        assert not any(name.startswith("MLFLOW") for name in found)


def test_a_run_without_trackers_names_no_such_secret() -> None:
    launch = launch_of(config_of())
    assert TRACKERS_SECRET not in to_yaml(render(launch)) + to_yaml(render_preflight(launch))
