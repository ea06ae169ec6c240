"""Several nodes of machines whose GPUs talk by GPUDirect-TCPX or RDMA; TCPXO is in test_manifests.py."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from launches import launch_of

from packtrain.kube import pins
from packtrain.kube.fabrics import RDMA, TCPX, TCPXO, fabric_between, fabric_of
from packtrain.kube.manifests import render
from packtrain.plan.machines import machine, machines

RDMA_MACHINES = ("a3-ultragpu-8g", "a4-highgpu-8g")
Manifest = dict[str, Any]


def pod_of(name: str, **cluster: Any) -> Manifest:
    jobset = render(launch_of(nodes=2, machine=name, **cluster))[1]
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert isinstance(template, dict)
    return template


def env_of(container: Manifest) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def interfaces(pod: Manifest) -> dict[str, str]:
    annotations = pod["metadata"]["annotations"]
    assert annotations["networking.gke.io/default-interface"] == "eth0"
    listed = json.loads(annotations["networking.gke.io/interfaces"])
    return {each["interfaceName"]: each["network"] for each in listed}


@pytest.mark.parametrize("each", machines().values(), ids=lambda each: each.name)
def test_a_fabric_has_a_network_for_each_of_the_gpus_cards(each: Any) -> None:
    fabric = fabric_of(each)
    assert (fabric is None) == (each.gpu_nics == 0)
    assert fabric_between(each, 1) is None
    if fabric is not None:
        assert len(fabric.attached) == each.gpu_nics
        assert len({card.network for card in fabric.cards}) == len(fabric.cards)
        assert len({(card.vpc, card.subnetwork) for card in fabric.cards}) == len(fabric.cards)


def test_only_rdma_is_bound_to_a_zone_and_has_a_card_that_pods_do_not_use() -> None:
    assert [fabric.zonal for fabric in (TCPXO, TCPX, RDMA)] == [False, False, True]
    assert [card.network for card in RDMA.cards if card.interface is None] == ["gvnic-1"]
    assert {card.mode for card in RDMA.attached} == {"RDMA"}
    assert {card.mode for card in (*TCPX.cards, *TCPXO.cards, RDMA.cards[0])} == {"NetDevice"}


def test_tcpx_has_four_networks_a_daemon_and_ncclss_settings() -> None:
    pod = pod_of("a3-highgpu-8g")
    assert interfaces(pod) == {"eth0": "default", **{f"eth{index}": f"vpc{index}" for index in range(1, 5)}}
    devices = yaml.safe_load(pod["metadata"]["annotations"]["devices.gke.io/container.tcpx-daemon"])
    assert [each["path"] for each in devices][8:] == ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    (daemon,) = pod["spec"]["initContainers"]
    (trainer,) = pod["spec"]["containers"]
    assert daemon["image"] == pins.tcpx_daemon()
    assert daemon["restartPolicy"] == "Always"
    assert daemon["securityContext"]["capabilities"] == {"add": ["NET_ADMIN"]}
    assert daemon["command"][-1] == "--verbose 128 2 0", "one word"
    shared = [each["mountPath"] for container in (daemon, trainer) for each in container["volumeMounts"]]
    assert shared.count("/run/tcpx") == 2
    assert daemon["command"][daemon["command"].index("--uds_path") + 1] == "/run/tcpx"
    env = env_of(trainer)
    assert env["NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX"] == "/run/tcpx"
    assert env["NCCL_GPUDIRECTTCPX_SOCKET_IFNAME"] == "eth1,eth2,eth3,eth4"
    assert env["NCCL_SOCKET_IFNAME"] == env["NCCL_GPUDIRECTTCPX_CTRL_DEV"] == "eth0"
    assert trainer["command"][0] == "python"
    assert trainer["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}


def test_tcpx_binds_threads_to_cpus_that_the_machine_has() -> None:
    env = env_of(pod_of("a3-highgpu-8g")["spec"]["containers"][0])
    used: set[int] = set()
    for way in ("TX", "RX"):
        cards = dict(each.split(":") for each in env[f"NCCL_GPUDIRECTTCPX_{way}_BINDINGS"].split(";"))
        assert list(cards) == ["eth1", "eth2", "eth3", "eth4"]
        for spans in cards.values():
            for span in spans.split(","):
                first, last = map(int, span.split("-"))
                used |= set(range(first, last + 1))
    assert max(used) < machine("a3-highgpu-8g").vcpus


@pytest.mark.parametrize("name", RDMA_MACHINES)
def test_rdma_has_eight_networks_and_no_daemon(name: str) -> None:
    pod = pod_of(name)
    assert interfaces(pod) == {
        "eth0": "default",
        **{f"eth{index + 2}": f"rdma-{index}" for index in range(8)},
    }
    assert "initContainers" not in pod["spec"]
    (trainer,) = pod["spec"]["containers"]
    assert trainer["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    folders = {each["hostPath"]["path"] for each in pod["spec"]["volumes"] if "hostPath" in each}
    assert folders == {"/home/kubernetes/bin/nvidia", "/home/kubernetes/bin/gib"}
    read_only = {each["mountPath"]: each.get("readOnly") for each in trainer["volumeMounts"]}
    assert read_only["/usr/local/gib"] is read_only["/usr/local/nvidia"] is True
    assert env_of(trainer)["NCCL_NET"] == "gIB"


@pytest.mark.parametrize("there", [True, False])
def test_gibs_settings_come_first_and_the_shell_becomes_the_supervisor(there: bool, tmp_path: Path) -> None:
    (trainer,) = pod_of("a3-ultragpu-8g")["spec"]["containers"]
    shell = trainer["command"][: trainer["command"].index("python")]
    if there:
        (tmp_path / "scripts").mkdir()
        # As the real one may: the last thing that it asks is not so.
        settings = "export NCCL_SET=yes\n[[ -n $NOTHING ]] && export NCCL_OTHER=1\n"
        (tmp_path / "scripts/set_nccl_env.sh").write_text(settings)
    ended = subprocess.run(
        [*shell, "/bin/sh", "-c", 'echo "$$ $NCCL_SET $*"', "sh", "a b"],
        env={"GIB_DIR": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == (0 if there else 1), "a node that is not ready yet: another pod is tried"
    assert ended.stdout.split()[1:] == (["yes", "a", "b"] if there else [])


@pytest.mark.parametrize("name", ["a3-highgpu-8g", *RDMA_MACHINES])
def test_one_node_needs_none_of_it(name: str) -> None:
    text = json.dumps(render(launch_of(machine=name)))
    for word in ("hostPath", "networking.gke.io", "NCCL_", "IPC_LOCK", '"root"'):
        assert word not in text
