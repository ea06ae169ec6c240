"""Real kubectl reads what we render: it drops in silence what its version does not know, so that what comes
back equal is known. Several versions where they are installed (as the Google Cloud CLI brings them)."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectls import VERSIONS, need_kubectl
from launches import config_of, launch_of

from packtrain.kube.manifests import render
from packtrain.kube.preflight import render_preflight
from packtrain.kube.serve import Serving, render_serve
from packtrain.plan.machines import machine


def read_by(program: Path, manifest: dict[str, Any], verb: list[str], tmp_path: Path) -> dict[str, Any]:
    """The manifest as kubectl decodes and writes it, after a change that a test can take back."""
    ended = subprocess.run(
        [str(program), *verb, "--local", "-f", "-", "-o", "yaml"],
        input=yaml.safe_dump(manifest),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "KUBECONFIG": os.devnull},
    )
    assert ended.returncode == 0, ended.stderr
    return dict(yaml.safe_load(ended.stdout))


def without_defaults(value: Any) -> Any:
    """kubectl writes empty fields of its own types, which mean nothing."""
    if isinstance(value, dict):
        kept = {key: without_defaults(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each not in (None, {})}
    return [without_defaults(each) for each in value] if isinstance(value, list) else value


def job_inside(jobset: dict[str, Any]) -> dict[str, Any]:
    """The Job that a JobSet makes, which kubectl knows, while JobSet itself is a custom resource."""
    template = jobset["spec"]["replicatedJobs"][0]["template"]
    metadata = {"name": "a", **template["metadata"]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def jobs() -> dict[str, dict[str, Any]]:
    queued = launch_of(capacity="queued", queue="team-a", max_cost="100 USD")
    serving = Serving(config_of(), "trainer:1", "gs://b/a", machine("g2-standard-12"))
    return {
        "one node": render(launch_of())[1],
        "queued": render(queued)[1],
        "on demand": render(launch_of(capacity="on-demand", machine="g2-standard-4"))[1],
        "tcp": job_inside(render(launch_of(nodes=2, machine="a2-highgpu-8g"))[1]),
        "tcpxo": job_inside(render(launch_of(nodes=2))[1]),
        "tcpxo on the host's network": job_inside(render(launch_of(nodes=2, host_network=True))[1]),
        "tcpx": job_inside(render(launch_of(nodes=2, machine="a3-highgpu-8g"))[1]),
        "rdma": job_inside(render(launch_of(nodes=2, machine="a4-highgpu-8g"))[1]),
        "preflight": render_preflight(launch_of())[1],
        "serve": render_serve(serving)[0],
    }


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_knows_all_of_our_pods(version: str, tmp_path: Path) -> None:
    program = need_kubectl(version)
    for name, manifest in jobs().items():
        if version == "1.27" and name.startswith("tcpx"):
            continue  # native sidecars came with 1.28
        back = read_by(program, manifest, ["set", "env", "PACKTRAIN_TRIED=1"], tmp_path)
        assert without_defaults(_untried(back)) == without_defaults(manifest), name


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_knows_the_other_objects(version: str, tmp_path: Path) -> None:
    program = need_kubectl(version)
    serving = Serving(config_of(), "trainer:1", "gs://b/a", machine("g2-standard-12"))
    for manifest in (render(launch_of())[0], render_serve(serving)[1]):
        back = read_by(program, manifest, ["label", "packtrain-tried=1"], tmp_path)
        del back["metadata"]["labels"]["packtrain-tried"]
        assert without_defaults(back) == without_defaults(manifest)


def test_a_field_that_kubectl_does_not_know_is_dropped_and_so_found(tmp_path: Path) -> None:
    manifest = copy.deepcopy(jobs()["tcpxo"])
    manifest["spec"]["template"]["spec"]["runtimeClass"] = "gvisor"
    back = read_by(need_kubectl("1.30"), manifest, ["set", "env", "PACKTRAIN_TRIED=1"], tmp_path)
    assert "runtimeClass" not in back["spec"]["template"]["spec"]


def _untried(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without the variable that was set."""
    pod = manifest["spec"]["template"]["spec"]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        container["env"] = [each for each in container["env"] if each["name"] != "PACKTRAIN_TRIED"]
    return manifest
