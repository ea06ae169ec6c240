"""Containers of rendered pods as processes: Kubernetes' rules, and the whole list of what differs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launches import IMAGE, RUN_ID, launch_of

from packtrain.errors import ConfigError
from packtrain.kube.manifests import render
from packtrain.kube.rehearsal.kubelet import (
    Changes,
    Identity,
    Process,
    Resources,
    expand,
    make_process,
)

UID = "11111111-2222-3333-4444-555555555555"
TOKEN = {"huggingface-secret": {"token": "hf_secret"}}
VOLUMES = ["volume config", "volume work", "volume tmp", "volume shared-memory"]
PATHS = ["PACKTRAIN_CONFIG", "PACKTRAIN_WORK", "PACKTRAIN_CACHE", "HF_HOME", "TMPDIR", "HOME"]
CHANGES = Changes({"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"}, 1)


def template_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    workload = manifests[-1]
    if workload["kind"] == "JobSet":
        [replicated] = workload["spec"]["replicatedJobs"]
        workload = replicated["template"]
    template: dict[str, Any] = workload["spec"]["template"]
    return template


def resources_of(manifests: list[dict[str, Any]], secrets: dict[str, dict[str, str]] = TOKEN) -> Resources:
    return Resources({manifests[0]["metadata"]["name"]: manifests[0]["data"]}, secrets)


def identity(**labels: str) -> Identity:
    own = {"batch.kubernetes.io/controller-uid": UID, "jobset.sigs.k8s.io/jobset-uid": UID} | labels
    return Identity("a-pod", "ml", UID, own, {"batch.kubernetes.io/job-completion-index": "1"})


def made(folder: Path, changes: Changes = CHANGES, **cluster: Any) -> Process:
    manifests = render(launch_of(**cluster))
    index = {"JOB_COMPLETION_INDEX": "1"} if cluster.get("nodes", 1) > 1 else {}
    return make_process(template_of(manifests), identity(), resources_of(manifests), changes, folder, index)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)/x", "1/x"),
        ("$(A)$(B)", "12"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $(", "$A ${A} $("),
        ("", ""),
    ],
)
def test_references(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


def test_one_node_has_the_rendered_command_and_environment(tmp_path: Path) -> None:
    process = made(tmp_path)
    work, config = tmp_path / "volumes/work", tmp_path / "volumes/config"
    assert process.argv == (
        *("python", "-m", "packtrain.run.supervisor", "--processes", "1", "--"),
        *("train", f"{config}/run.yaml", "--run-dir", f"{work}/run"),
    )
    assert (config / "run.yaml").read_text() == launch_of().run_yaml
    environment = process.environment
    assert environment["PACKTRAIN_OWNER"] == UID
    assert environment["PACKTRAIN_RUN_ID"] == RUN_ID
    assert environment["PACKTRAIN_IMAGE"] == IMAGE
    assert environment["HF_TOKEN"] == "hf_secret"
    assert environment["HF_HOME"] == f"{work}/cache/huggingface"
    assert Path(environment["TMPDIR"]).is_dir()
    assert process.grace_seconds == 15


def test_nothing_of_this_machines_own_environment_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING_OF_MINE", "x")
    manifests = render(launch_of())
    rendered = {each["name"] for each in template_of(manifests)["spec"]["containers"][0]["env"]}
    assert made(tmp_path).environment.keys() == rendered | {"STORAGE_EMULATOR_HOST", "PATH"}


def test_the_whole_list_of_what_differs_on_one_node(tmp_path: Path) -> None:
    assert [each.what for each in made(tmp_path).differences] == [
        *VOLUMES,
        *(f"env {name}" for name in PATHS),
        *("env STORAGE_EMULATOR_HOST", "env PATH", "command --processes"),
    ]


def test_the_whole_list_of_what_differs_on_several(tmp_path: Path) -> None:
    changes = Changes({"PACKTRAIN_MASTER_ADDR": "127.0.0.1", "PACKTRAIN_MASTER_PORT": "12345"}, 1)
    process = made(tmp_path, changes, nodes=2)
    assert [each.what for each in process.differences] == [
        *(*VOLUMES[:3], "volume nvidia", "volume aperture-devices", VOLUMES[3]),
        *(f"env {name}" for name in [*PATHS, "NCCL_LIB_DIR", "LD_LIBRARY_PATH"]),
        "env NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY",
        *("env PACKTRAIN_MASTER_ADDR", "env PACKTRAIN_MASTER_PORT", "env PATH"),
        *("command --processes", "container tcpxo-daemon"),
    ]
    assert process.environment["PACKTRAIN_NODE_RANK"] == process.environment["JOB_COMPLETION_INDEX"] == "1"
    assert process.environment["PACKTRAIN_NODES"] == "2"
    assert process.argv[:2] == ("/bin/sh", "-c")
    assert Path(process.environment["NCCL_LIB_DIR"], "nccl-env-profile.sh").is_file()


def test_as_many_ranks_as_rendered_is_no_difference(tmp_path: Path) -> None:
    process = made(tmp_path, Changes({}, 8))
    assert "command --processes" not in [each.what for each in process.differences]


def test_python_is_this_one_with_its_packages(tmp_path: Path) -> None:
    import subprocess

    process = made(tmp_path)
    told = subprocess.run(
        ["python", "-c", "import sys, torch, packtrain; print(sys.prefix)"],
        env=dict(process.environment),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == sys.prefix


def test_a_secret_that_may_be_absent_is_absent(tmp_path: Path) -> None:
    manifests = render(launch_of())
    process = make_process(
        template_of(manifests), identity(), resources_of(manifests, {}), CHANGES, tmp_path, {}
    )
    assert "HF_TOKEN" not in process.environment


def test_what_a_kubelet_would_wait_for_is_an_error(tmp_path: Path) -> None:
    manifests = render(launch_of())
    template = template_of(manifests)
    with pytest.raises(ConfigError, match="there is no ConfigMap llama3-8b-dolly-"):
        make_process(template, identity(), Resources({}, TOKEN), CHANGES, tmp_path / "a", {})
    env = template["spec"]["containers"][0]["env"]
    env.append({"name": "X", "valueFrom": {"secretKeyRef": {"name": "other", "key": "token"}}})
    with pytest.raises(ConfigError, match="env X: other has no key token"):
        make_process(template, identity(), resources_of(manifests), CHANGES, tmp_path / "b", {})
    env[-1] = {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}
    with pytest.raises(ConfigError, match=r"fieldPath status\.phase"):
        make_process(template, identity(), resources_of(manifests), CHANGES, tmp_path / "c", {})
    env.pop()
    template["spec"]["volumes"].pop(0)
    with pytest.raises(ConfigError, match="there is no volume config"):
        make_process(template, identity(), resources_of(manifests), CHANGES, tmp_path / "d", {})


def test_a_label_that_is_not_there_is_empty(tmp_path: Path) -> None:
    manifests = render(launch_of())
    nobody = Identity("a-pod", "ml", UID, {}, {})
    process = make_process(template_of(manifests), nobody, resources_of(manifests), CHANGES, tmp_path, {})
    assert process.environment["PACKTRAIN_OWNER"] == ""


@pytest.mark.parametrize("name", ["a3-highgpu-8g", "a3-megagpu-8g", "a3-ultragpu-8g"])
def test_the_command_of_several_nodes_starts_with_every_fabric(name: str, tmp_path: Path) -> None:
    """Its shell finds NCCL's settings where the node has them, and becomes the command."""
    jobset = render(launch_of(nodes=2, machine=name))[1]
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    config_maps = {
        each["metadata"]["name"]: each["data"] for each in render(launch_of(nodes=2, machine=name))[:1]
    }
    identity = Identity("pod", "default", "uid", {}, {})
    made = make_process(template, identity, Resources(config_maps, {}), Changes({}, 1), tmp_path, {})
    at = made.argv.index("python")
    ended = subprocess.run(
        [*made.argv[:at], "python", "-c", "print('started')"],
        env=dict(made.environment), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "started\n"), ended.stderr
