"""The trainer's pod, by passes: what runs in it, on which node, and where that node comes from."""

from __future__ import annotations

import math
from dataclasses import replace

from packtrain.config import ClusterConfig, ReportConfig, seconds
from packtrain.hub.staged import STAGED
from packtrain.kube.launch import Launch
from packtrain.kube.names import (
    MASTER_PORT,
    RUN_FILE,
    TOKEN_KEY,
    TOKEN_SECRET,
    TRACKERS_SECRET,
    TRAINER,
    config_map_name,
    first_node,
    labels,
    node_pool,
)
from packtrain.kube.resources import Resources, gib, of_machine
from packtrain.kube.spec import (
    Container,
    Mount,
    Pod,
    Toleration,
    Variable,
    Volume,
    config_map,
    empty_dir,
    memory_dir,
)
from packtrain.plan.machines import OWN_PRICE, Machine, price_per_hour
from packtrain.report.trackers.tracker import KINDS
from packtrain.run.planned import PLANNED

CONFIG_PATH = "/etc/packtrain"
WORK_PATH = "/work"
CACHE_PATH = f"{WORK_PATH}/cache"
TMP_PATH = f"{WORK_PATH}/tmp"  # noqa: S108
#: Labels of the pod from which it knows the object that it belongs to: whoever holds the run's lock.
JOB_UID = "metadata.labels['batch.kubernetes.io/controller-uid']"
JOBSET_UID = "metadata.labels['jobset.sigs.k8s.io/jobset-uid']"
NODE_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
#: Seconds that a node of several waits when a peer is lost, so that Kubernetes hears of the cause first.
LINGER = 20

ACCELERATOR = "cloud.google.com/gke-accelerator"
SPOT = "cloud.google.com/gke-spot"
FLEX_START = "cloud.google.com/gke-flex-start"
QUEUED = "cloud.google.com/gke-queued"
NODE_POOL = "cloud.google.com/gke-nodepool"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"


def trainer(launch: Launch) -> Pod:
    """The pod of a run on one node. Several nodes: :func:`of_several`."""
    config = launch.config
    container = Container(
        name=TRAINER,
        image=launch.image,
        command=command(launch.machine.gpus),
        env=environment(launch),
        mounts=mounts(),
    )
    pod = Pod(
        service_account=config.cluster.service_account,
        containers=(container,),
        volumes=volumes(launch),
        labels=labels(config.name, launch.run_id),
        grace_seconds=math.ceil(seconds(config.checkpoint.grace)),
    )
    return capacity(machine(pod, launch.machine), config.cluster)


def command(processes: int) -> tuple[str, ...]:
    run = ("train", f"$(PACKTRAIN_CONFIG)/{RUN_FILE}", "--run-dir", "$(PACKTRAIN_WORK)/run")
    return ("python", "-m", "packtrain.run.supervisor", "--processes", str(processes), "--", *run)


def environment(launch: Launch) -> tuple[Variable, ...]:
    """Paths first: what refers to a variable has to stand after it."""
    cluster = launch.config.cluster
    price = price_per_hour(launch.machine, cluster.capacity, cluster.location)
    return (
        Variable("PACKTRAIN_CONFIG", CONFIG_PATH),
        Variable("PACKTRAIN_WORK", WORK_PATH),
        Variable("PACKTRAIN_CACHE", CACHE_PATH),
        Variable("HF_HOME", f"{CACHE_PATH}/huggingface"),
        Variable("TMPDIR", TMP_PATH),
        Variable("HOME", f"{WORK_PATH}/home"),
        Variable("PYTHONUNBUFFERED", "1"),
        Variable("PACKTRAIN_RUN_ID", launch.run_id),
        Variable("PACKTRAIN_IMAGE", launch.image),
        Variable("PACKTRAIN_OWNER", field_path=JOB_UID),
        Variable("PACKTRAIN_NODES", "1"),
        *([Variable(OWN_PRICE, str(price.usd))] if price.own and price.usd is not None else []),
        *([Variable(PLANNED, launch.planned)] if launch.planned else []),
        *staged(cluster),
        Variable("HF_TOKEN", secret=(TOKEN_SECRET, TOKEN_KEY)),
        *trackers(launch.config.report),
    )


def trackers(report: ReportConfig) -> tuple[Variable, ...]:
    """Where and as whom those of `report.to` work: keys of a Secret, each of which may be absent."""
    names = [each for kind in report.to for each in KINDS[kind].variables]
    return tuple(Variable(name, secret=(TRACKERS_SECRET, name)) for name in dict.fromkeys(names))


def staged(cluster: ClusterConfig) -> tuple[Variable, ...]:
    """Copies in the bucket in place of the hub, where there are any."""
    if cluster.staged is None:
        return ()
    return (Variable(STAGED, cluster.staged), Variable("HF_HUB_OFFLINE", "1"))


def volumes(launch: Launch) -> tuple[Volume, ...]:
    return (
        config_map("config", config_map_name(launch.config.name, launch.run_yaml)),
        empty_dir("work"),
        empty_dir("tmp"),
    )


def mounts() -> tuple[Mount, ...]:
    """The root file system is read-only: a folder for temporary files has to be there, under both names."""
    return (
        Mount("config", CONFIG_PATH, read_only=True),
        Mount("work", WORK_PATH),
        Mount("tmp", TMP_PATH),
        Mount("tmp", "/tmp"),  # noqa: S108  (the container's own)
    )


def machine(pod: Pod, machine: Machine) -> Pod:
    """A pass: the whole of one machine, with its GPUs and shared memory for their processes."""
    selected = {ACCELERATOR: machine.accelerator, INSTANCE_TYPE: machine.name}
    pod = replace(
        pod,
        node_selector={**pod.node_selector, **selected},
        tolerations=(*pod.tolerations, Toleration("nvidia.com/gpu", "present")),
    )
    return resources(pod, of_machine(machine))


def resources(pod: Pod, wanted: Resources) -> Pod:
    """A pass: requests, limits and /dev/shm of the first container."""
    shared = memory_dir("shared-memory", gib(wanted.shared_memory))
    others = tuple(each for each in pod.volumes if each.name != shared.name)
    mounts = tuple(each for each in pod.containers[0].mounts if each.volume != shared.name)
    pod = pod.main(
        requests=wanted.requests(),
        limits=wanted.limits(),
        mounts=(*mounts, Mount(shared.name, "/dev/shm")),  # noqa: S108
    )
    return replace(pod, volumes=(*others, shared))


def capacity(pod: Pod, cluster: ClusterConfig) -> Pod:
    """A pass: nodes that are bought as ``cluster.capacity`` says, and no others.

    A reservation, and a queue's nodes, are bought by the pool: the pool is what selects them.
    """
    selected: dict[str, str] = {}
    avoid: tuple[str, ...] = ()
    tolerated: tuple[Toleration, ...] = ()
    pool = cluster.node_pool
    match cluster.capacity:
        case "spot":
            selected = {SPOT: "true"}
            tolerated = (Toleration(SPOT, "true"),)
        case "flex-start":
            selected = {FLEX_START: "true"}
            tolerated = (Toleration(FLEX_START, "true"),)
        case "queued":
            tolerated = (Toleration(QUEUED, "true"), Toleration(FLEX_START, "true"))
            pool = pool or node_pool(cluster.machine, cluster.capacity)
        case "reservation":
            avoid = (SPOT, FLEX_START)
            pool = pool or node_pool(cluster.machine, cluster.capacity)
        case "on-demand":
            avoid = (SPOT, FLEX_START)
    selected |= {NODE_POOL: pool} if pool else {}
    return replace(
        pod,
        node_selector={**pod.node_selector, **selected},
        avoid=(*pod.avoid, *avoid),
        tolerations=(*pod.tolerations, *tolerated),
    )


def of_several(pod: Pod, launch: Launch) -> Pod:
    """A pass: one of several nodes, which meet at the first one's name in the JobSet's own Service."""
    own = {
        "PACKTRAIN_OWNER": Variable("PACKTRAIN_OWNER", field_path=JOBSET_UID),
        "PACKTRAIN_NODES": Variable("PACKTRAIN_NODES", str(launch.config.cluster.nodes)),
    }
    env = tuple(own.get(each.name, each) for each in pod.containers[0].env)
    meeting = (
        Variable("PACKTRAIN_NODE_RANK", field_path=NODE_INDEX),
        Variable("PACKTRAIN_MASTER_ADDR", first_node(launch.config.name)),
        Variable("PACKTRAIN_MASTER_PORT", str(MASTER_PORT)),
        Variable("PACKTRAIN_LINGER", str(LINGER)),
        Variable("NCCL_SOCKET_IFNAME", "eth0"),
    )
    return replace(pod.main(env=(*env, *meeting)), host_network=launch.config.cluster.host_network)
