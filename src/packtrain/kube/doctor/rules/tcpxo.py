"""Rules on GPUDirect-TCPXO, which carries traffic between a3-megagpu-8g: where it belongs, what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from packtrain.kube.doctor import facts, sources
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.tree import Node
from packtrain.kube.doctor.workloads import DAEMON_IMAGE, PLUGIN_IMAGE, Container, Job, Pod
from packtrain.plan.machines import machines

DEVICES = (
    *(f"/dev/nvidia{index}" for index in range(8)),
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/dmabuf_import_helper",
)
CAPABILITIES = ("NET_ADMIN", "NET_BIND_SERVICE")


def _privileged(container: Container) -> bool:
    return container.node.at("securityContext", "privileged").is_true


@rule(
    Pod,
    "PT601",
    "error",
    "NCCL plugin and receive daemon are no pair",
    source=sources.TCPXO_RELEASES,
    fix="Take both from one release of the list, and move them together.",
)
def pair(pod: Pod) -> Iterator[Problem]:
    daemon = pod.daemon
    version = DAEMON_IMAGE.search(daemon.image) if daemon is not None else None
    if daemon is None or version is None:
        return
    own = [found[1] for each in pod.containers if (found := PLUGIN_IMAGE.search(each.image))]
    plugins = own or [tag for tag, _ in pod.bundle.images(PLUGIN_IMAGE)]
    for plugin in dict.fromkeys(plugins):
        wanted = facts.pairs().get(facts.plain(plugin))
        if wanted is not None and facts.plain(version[1]) != wanted:
            yield (
                daemon.node["image"],
                f"daemon {version[1]} with plugin {plugin}, whose pair is daemon {wanted}",
            )


@rule(
    Pod,
    "PT602",
    "info",
    "A receive daemon that is in no release",
    source=sources.TCPXO_RELEASES,
    fix="Take plugin and daemon from one release of the list.",
)
def known_daemon(pod: Pod) -> Iterator[Problem]:
    daemon = pod.daemon
    version = DAEMON_IMAGE.search(daemon.image) if daemon is not None else None
    if daemon is not None and version and facts.plain(version[1]) not in facts.pairs().values():
        yield daemon.node["image"], f"daemon {version[1]} is in no release that is known here"


@rule(
    Pod,
    "PT603",
    "warning",
    "GPUDirect-TCPXO on a single node",
    source=sources.TCPXO,
    fix="Leave the daemon, the networks and their rights out: the GPUs of one node use NVLink.",
)
def single_node(pod: Pod) -> Iterator[Problem]:
    daemon = pod.daemon
    if daemon is not None and pod.nodes == 1:
        yield (
            daemon.node,
            "the job has one node: the daemon has nothing to carry, and needs rights and networks",
        )


@rule(
    Pod,
    "PT604",
    "warning",
    "Several nodes without GPUDirect-TCPXO",
    source=sources.TCPXO_BANDWIDTH,
    fix="Add the plugin, the receive daemon and the eight networks; or use one node.",
)
def without(pod: Pod) -> Iterator[Problem]:
    tcpxo = {machine.accelerator for machine in machines().values() if machine.tcpxo}
    if (
        pod.accelerator in tcpxo
        and pod.gpus == 8
        and (pod.nodes or 0) > 1
        and pod.finite
        and pod.daemon is None
    ):
        yield (
            pod.spec["initContainers"],
            f"{pod.nodes} nodes with {pod.accelerator} and no receive daemon: their GPUs share one "
            "network card, with about a seventh of the bandwidth",
        )


@rule(
    Job,
    "PT605",
    "error",
    "The receive daemon keeps the Job from ending",
    source=sources.SIDECARS,
    fix="Make it a native sidecar: an init container with restartPolicy: Always (GKE 1.29 and later).",
)
def sidecar(job: Job) -> Iterator[Problem]:
    daemon = job.pod.daemon
    if daemon is None or daemon.sidecar:
        return
    if daemon.init:
        yield (
            daemon.node,
            "the daemon is an init container without restartPolicy: Always: the training never starts",
        )
    elif not re.search(r"while\b.*(?:-[ef]|kill\s+-0)|shareProcessNamespace", " ".join(daemon.argv), re.S):
        yield daemon.node, "the daemon is an ordinary container and runs for ever: the Job never completes"


@rule(
    Pod,
    "PT606",
    "error",
    "The receive daemon does not get the GPUs' devices",
    source=sources.TCPXO,
    fix="Name the eleven devices in the annotation devices.gke.io/container.NAME (the daemon's container).",
)
def devices(pod: Pod) -> Iterator[Problem]:
    daemon = pod.daemon
    if daemon is None or _privileged(daemon):
        return
    key = f"devices.gke.io/container.{daemon.name}"
    annotation = pod.annotations[key]
    if not annotation.text:
        others = [name for name, _ in pod.annotations.pairs() if name.startswith("devices.gke.io/container.")]
        wrong = f"; {others[0]} names no daemon" if others else ""
        yield pod.annotations, f"the annotation {key} is not there{wrong}"
        return
    try:
        listed = Node(yaml.safe_load(annotation.text))
    except (yaml.YAMLError, ValueError, RecursionError):
        yield annotation, f"the annotation {key} is not YAML"
        return
    paths = {entry["path"].text for entry in listed}
    if missing := [device for device in DEVICES if device not in paths]:
        yield annotation, f"the annotation {key} leaves out {', '.join(missing)}"


@rule(
    Pod,
    "PT607",
    "error",
    "The receive daemon lacks a capability",
    source=sources.TCPXO,
    fix="Add the capabilities NET_ADMIN and NET_BIND_SERVICE to the daemon; it needs no privileged.",
)
def capabilities(pod: Pod) -> Iterator[Problem]:
    daemon = pod.daemon
    if daemon is None or _privileged(daemon):
        return
    added = daemon.node.at("securityContext", "capabilities", "add")
    have = {entry.text.removeprefix("CAP_") for entry in added}
    if missing := [name for name in CAPABILITIES if name not in have and "ALL" not in have]:
        yield added, f"the daemon has no {' and no '.join(missing)}"


@rule(
    Pod,
    "PT608",
    "error",
    "GPUDirect-TCPXO lacks a folder of the node",
    source=sources.TCPXO,
    fix="Mount the hostPaths /home/kubernetes/bin/nvidia, /sys and /proc/sys in the daemon, and "
    "/dev/aperture_devices in the training.",
)
def mounts(pod: Pod) -> Iterator[Problem]:
    daemon = pod.daemon
    if daemon is None:
        return
    wanted: list[tuple[Container, tuple[str, ...], str]] = [
        (daemon, ("/usr/local/nvidia", "/usr/local/nvidia/lib64"), "the driver's libraries")
    ]
    if not _privileged(daemon):
        wanted += [(daemon, ("/hostsysfs",), "/sys"), (daemon, ("/hostprocsysfs",), "/proc/sys")]
    wanted += [
        (each, ("/dev/aperture_devices",), "/dev/aperture_devices")
        for each in pod.workers
        if each.gpus and not _privileged(each)
    ]
    for container, paths, what in wanted:
        if all(container.mounts(path) is None for path in paths):
            yield (
                container.node["volumeMounts"],
                f"container {container.name} does not mount {what} at {paths[0]}",
            )


@rule(
    Pod,
    "PT609",
    "warning",
    "The training does not know where its devices are",
    source=sources.TCPXO_RELEASES,
    fix="Set NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY=/dev/aperture_devices in the training's container.",
)
def device_directory(pod: Pod) -> Iterator[Problem]:
    name = "NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY"
    for container in pod.workers if pod.daemon is not None else ():
        if container.gpus and not _privileged(container) and name not in " ".join(container.argv):
            entry = container.environment(name)
            if entry is None or entry["value"].text.rstrip("/") != "/dev/aperture_devices":
                yield (
                    (entry or container.node)["env" if entry is None else "value"],
                    f"container {container.name} does not set {name} to /dev/aperture_devices",
                )


@rule(
    Pod,
    "PT610",
    "info",
    "The training may start before the receive daemon is ready",
    source=sources.SIDECARS,
    fix="Give the sidecar a startupProbe on its health file (HEALTH_CHECK_LOG_FILE).",
)
def ready(pod: Pod) -> Iterator[Problem]:
    daemon = pod.daemon
    if daemon is not None and daemon.sidecar and not daemon.node["startupProbe"].present:
        yield daemon.node, "the daemon has no startupProbe: the training starts with it, not after it"


RULES = (
    pair,
    known_daemon,
    single_node,
    without,
    sidecar,
    devices,
    capabilities,
    mounts,
    device_directory,
    ready,
)
