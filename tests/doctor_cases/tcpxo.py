"""Cases of the rules on GPUDirect-TCPXO and networks (PT6)."""

from __future__ import annotations

import json
from typing import Any

import yaml

from doctor_cases.kit import DAEMON, DROP, NODE_JOB, NODE_MAIN, NODE_POD, Case, edited, jobset, workload
from packtrain.kube import pins

REPOSITORY = "us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo"
ANNOTATIONS = (*NODE_JOB, "template", "metadata", "annotations")
INTERFACES = (*ANNOTATIONS, "networking.gke.io/interfaces")
DEVICES = (*ANNOTATIONS, "devices.gke.io/container.tcpxo-daemon")
IMAGE = (*DAEMON, "image")
ONE_NODE = (((*NODE_JOB, "parallelism"), 1), ((*NODE_JOB, "completions"), 1))


def interfaces(*names: tuple[str, str]) -> tuple[tuple[str | int, ...], str]:
    return INTERFACES, json.dumps([{"interfaceName": name, "network": network} for name, network in names])


NINE = (("eth0", "default"), *((f"eth{index}", f"vpc{index}") for index in range(1, 9)))
LISTED = json.dumps([{"interfaceName": name, "network": network} for name, network in NINE], indent=1)


def installer(plugin: str) -> dict[str, Any]:
    container = {"name": "installer", "image": f"{REPOSITORY}/nccl-plugin-gpudirecttcpx-dev:{plugin}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "nccl-tcpxo-installer", "namespace": "kube-system"},
        "spec": {"template": {"spec": {"initContainers": [container], "containers": [{"image": "pause:1"}]}}},
    }


def with_plugin(plugin: str, daemon: str) -> Any:
    install = {"name": "install", "image": f"{REPOSITORY}/nccl-plugin-gpudirecttcpx-dev:{plugin}"}
    return jobset(
        (IMAGE, f"{REPOSITORY}/tcpgpudmarxd-dev:{daemon}"), ((*NODE_POD, "initContainers", 1), install)
    )


def without_daemon() -> Any:
    return jobset(((*NODE_POD, "initContainers"), DROP))


def as_container(command: str) -> Any:
    """The daemon as an ordinary container."""
    spec = workload(nodes=2)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    daemon = {key: value for key, value in spec["initContainers"][0].items() if key != "restartPolicy"}
    daemon["args"] = [command]
    return jobset(((*NODE_POD, "initContainers"), []), ((*NODE_POD, "containers", 1), daemon))


def devices(*paths: str) -> tuple[tuple[str | int, ...], str]:
    return DEVICES, yaml.safe_dump([{"path": path} for path in paths])


TEMPLATE = workload(nodes=2)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
LISTED_DEVICES = TEMPLATE["metadata"]["annotations"]["devices.gke.io/container.tcpxo-daemon"]
ALL_DEVICES = [each["path"] for each in yaml.safe_load(LISTED_DEVICES)]
ENV = [each["name"] for each in TEMPLATE["spec"]["containers"][0]["env"]]
DIRECTORY = (*NODE_MAIN, "env", ENV.index("NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY"))


def network(name: str, **spec: Any) -> dict[str, Any]:
    parameters = {"group": "networking.gke.io", "kind": "GKENetworkParamSet", "name": name}
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "Network",
        "metadata": {"name": name},
        "spec": {"parametersRef": parameters, **spec},
    }


def parameters(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "GKENetworkParamSet",
        "metadata": {"name": "vpc1"},
        "spec": {"vpc": "a", "vpcSubnet": "a", **spec},
    }


CASES = (
    Case("PT601", with_plugin("v1.0.15", "v1.0.20"), with_plugin("v1.0.14", "v1.0.20")),
    Case("PT601", with_plugin("v1.0.8-1", "v1.0.13_1"), with_plugin("v1.0.8-1", "v1.0.14")),
    Case(
        "PT601",
        [installer("v1.0.11"), jobset()],
        [installer(pins.tcpxo().plugin.rpartition(":")[2]), jobset()],
    ),
    Case("PT602", with_plugin("v1.0.99", "v1.0.99"), with_plugin("v1.0.3", "v1.0.09")),
    Case("PT603", jobset(*ONE_NODE), jobset()),
    Case("PT604", without_daemon(), jobset(machine="g2-standard-96")),
    Case("PT604", without_daemon(), edited(without_daemon(), *ONE_NODE)),
    Case(
        "PT605",
        as_container("exec rxdm"),
        as_container("rxdm & while [ ! -e /semaphore/done ]; do sleep 5; done"),
    ),
    Case("PT605", jobset(((*DAEMON, "restartPolicy"), DROP)), jobset(((*DAEMON, "restartPolicy"), "Always"))),
    Case(
        "PT606",
        jobset((DEVICES, DROP)),
        jobset((DEVICES, DROP), ((*DAEMON, "securityContext", "privileged"), True)),
    ),
    Case("PT606", jobset(((*DAEMON, "name"), "rxdm")), jobset()),
    Case("PT606", jobset(devices(*ALL_DEVICES[:-1])), jobset(devices(*ALL_DEVICES, "/dev/other"))),
    Case("PT606", jobset((DEVICES, "- path: [")), jobset(devices(*reversed(ALL_DEVICES)))),
    Case(
        "PT607",
        jobset(((*DAEMON, "securityContext", "capabilities", "add"), ["NET_ADMIN"])),
        jobset(((*DAEMON, "securityContext", "capabilities", "add"), ["CAP_NET_BIND_SERVICE", "NET_ADMIN"])),
    ),
    Case(
        "PT608",
        jobset(((*DAEMON, "volumeMounts", 0, "mountPath"), "/usr/lib/nvidia")),
        jobset(((*DAEMON, "volumeMounts", 0, "mountPath"), "/usr/local/nvidia/lib64/")),
    ),
    Case("PT608", jobset(((*NODE_MAIN, "volumeMounts"), [])), jobset()),
    Case(
        "PT609",
        jobset((DIRECTORY, {"name": "OTHER", "value": "a"})),
        jobset(((*DIRECTORY, "value"), "/dev/aperture_devices/")),
    ),
    Case("PT609", jobset(((*DIRECTORY, "value"), "/dev")), jobset()),
    Case("PT610", jobset(((*DAEMON, "startupProbe"), DROP)), jobset(((*DAEMON, "livenessProbe"), {}))),
    Case("PT621", jobset((INTERFACES, LISTED.replace("}\n]", "},\n]"))), jobset((INTERFACES, LISTED))),
    Case("PT621", jobset((INTERFACES, "eth0=default")), jobset((INTERFACES, "[]"))),
    Case("PT622", jobset(interfaces(*NINE[:-1])), jobset(interfaces(*NINE))),
    Case("PT622", jobset(interfaces(*NINE, ("eth9", "vpc9"))), jobset(interfaces(*reversed(NINE)))),
    Case("PT622", jobset(interfaces(("eth0", "vpc9"), *NINE[1:])), jobset(interfaces(*NINE))),
    Case(
        "PT622",
        jobset(interfaces(*NINE[:-1], ("eth8", "vpc7"))),
        jobset(interfaces(*NINE[:-1], ("eth8", "x"))),
    ),
    Case("PT623", jobset((INTERFACES, DROP)), jobset((INTERFACES, DROP), ((*NODE_POD, "hostNetwork"), True))),
    Case("PT623", jobset(((*ANNOTATIONS, "networking.gke.io/default-interface"), "eth1")), jobset()),
    Case("PT624", parameters(deviceMode="Netdevice"), parameters(deviceMode="RDMA")),
    Case("PT624", network("vpc1", type="device"), network("vpc1", type="Device")),
    Case("PT625", [jobset(), network("vpc1", type="L3")], [jobset(), network("other", type="L3")]),
)
