"""Rules on what a pod asks for: shared memory, CPU, memory, disk, and the time that it has to stop."""

from __future__ import annotations

from collections.abc import Iterator

from packtrain.kube.doctor import facts, sources
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.tree import Node
from packtrain.kube.doctor.workloads import Container, Job, JobSet, Pod
from packtrain.plan.machines import GIB

EPHEMERAL = "ephemeral-storage"
#: What the pods of the system need on every node, besides what GKE reserves.
SYSTEM_CPUS, SYSTEM_MEMORY = 0.5, 0.75 * GIB
SHORTEST_TTL = 600


@rule(
    Pod,
    "PT301",
    "warning",
    "Several GPUs without shared memory",
    source=sources.NCCL_SHM,
    fix="Mount an emptyDir with medium Memory at /dev/shm.",
)
def shared_memory(pod: Pod) -> Iterator[Problem]:
    for container in pod.workers:
        if container.gpus > 1 and container.mounts("/dev/shm") is None and not pod.spec["hostIPC"].is_true:  # noqa: S108
            yield (
                container.node["volumeMounts"],
                f"container {container.name} has {container.gpus} GPUs and 64 MiB of /dev/shm, "
                "which NCCL and data loaders run out of",
            )


@rule(
    Pod,
    "PT302",
    "warning",
    "Shared memory that is not in memory",
    source=sources.EMPTY_DIR,
    fix="Write medium: Memory in the emptyDir at /dev/shm.",
)
def memory_medium(pod: Pod) -> Iterator[Problem]:
    volume = pod.shared_memory
    if volume is not None and "emptyDir" in volume and volume.at("emptyDir", "medium").text != "Memory":
        yield volume["emptyDir"], "the volume at /dev/shm is a folder on disk"


@rule(
    Pod,
    "PT303",
    "warning",
    "Shared memory without a limit",
    source=sources.EMPTY_DIR,
    fix="Set sizeLimit; it counts against the memory of the container that writes.",
)
def memory_limit(pod: Pod) -> Iterator[Problem]:
    volume = pod.shared_memory
    if volume is None or not pod.gpus or volume.at("emptyDir", "medium").text != "Memory":
        return
    size = volume.at("emptyDir", "sizeLimit")
    limits = [container.node.at("resources", "limits", "memory").quantity for container in pod.workers]
    if not size.present:
        if None in limits:
            yield volume["emptyDir"], "the volume at /dev/shm may grow until the node runs out of memory"
        return
    limit = limits[0] if limits else None
    if limit is not None and (size.quantity or 0) > limit:
        yield (
            size,
            "the volume at /dev/shm may be larger than the container's memory limit, and counts against it",
        )


@rule(
    Pod,
    "PT304",
    "warning",
    "A GPU container that asks for no CPU or memory",
    source=sources.RESOURCES,
    fix="Request most of what the machine has; a pod that requests nothing is evicted first.",
)
def requests(pod: Pod) -> Iterator[Problem]:
    for container in pod.workers:
        if container.gpus:
            missing = [each for each in ("cpu", "memory") if container.request(each) is None]
            if missing:
                yield (
                    container.node["resources"],
                    f"container {container.name} takes GPUs and requests no {' and no '.join(missing)}",
                )


@rule(
    Pod,
    "PT305",
    "error",
    "More CPU or memory than the machine can give",
    source=sources.NODE_SIZES,
    fix="Leave head room: GKE and the kubelet keep a part of every node.",
)
def fits(pod: Pod) -> Iterator[Problem]:
    yield from _beyond(pod, 0.0, 0.0, "the pod stays Pending")


@rule(
    Pod,
    "PT306",
    "warning",
    "No head room for the pods of the system",
    source=sources.NODE_SIZES,
    fix="Leave about half a vCPU and 1 GiB to logging, networking and the GPU device plugin.",
)
def head_room(pod: Pod) -> Iterator[Problem]:
    if not list(_beyond(pod, 0.0, 0.0, "")):
        yield from _beyond(
            pod, SYSTEM_CPUS, SYSTEM_MEMORY, "the pods that GKE runs on every node need a part"
        )


def _beyond(pod: Pod, cpus: float, memory: float, sentence: str) -> Iterator[Problem]:
    """What the pod asks for beyond what its machine has, less some ``cpus`` and ``memory``."""
    if pod.machine is None or not pod.gpus:
        return
    have_cpus, have_memory = facts.allocatable(pod.machine)
    where = pod.workers[0].node["resources"]
    asked = _total(pod, "cpu")
    if asked > have_cpus - cpus:
        yield (
            where,
            f"the pod requests {asked:g} vCPUs of the {have_cpus:.1f} that {pod.machine.name} gives to pods: "
            f"{sentence}",
        )
    asked = _total(pod, "memory")
    if asked > have_memory - memory:
        yield (
            where,
            f"the pod requests {asked / GIB:.0f} GiB of the {have_memory / GIB:.0f} GiB that "
            f"{pod.machine.name} gives to pods: {sentence}",
        )


def _total(pod: Pod, resource: str) -> float:
    def counted(container: Container) -> float:
        return container.request(resource) or 0.0

    running = [each for each in pod.containers if not each.init or each.sidecar]
    first = [counted(each) for each in pod.containers if each.init and not each.sidecar]
    return max(sum(map(counted, running)), *first, 0.0)


@rule(
    Pod,
    "PT307",
    "warning",
    "Disk is used and not asked for",
    source=sources.LOCAL_SSD,
    fix="Set an ephemeral-storage request (and limit), or a sizeLimit on each emptyDir.",
)
def disk(pod: Pod) -> Iterator[Problem]:
    if not pod.gpus or any(container.request(EPHEMERAL) is not None for container in pod.containers):
        return
    for volume in pod.spec["volumes"]:
        folder = volume["emptyDir"]
        if folder.present and folder["medium"].text != "Memory" and not folder["sizeLimit"].present:
            yield (
                volume,
                f"the pod writes to the node's disk (volume {volume['name'].text}) and asks for none: "
                "it is evicted when the disk runs full",
            )
            return


@rule(
    Pod,
    "PT308",
    "warning",
    "More time to stop than a Spot node gives",
    source=sources.SPOT,
    fix="Save within 15 s, or set the pool's kubeletConfig.shutdownGracePeriodSeconds (GKE 1.35 and later), "
    "to 120 s at most.",
)
def spot_grace(pod: Pod) -> Iterator[Problem]:
    usual, longest = facts.spot_grace()
    period = pod.spec["terminationGracePeriodSeconds"]
    seconds = period.integer or 0
    if pod.capacity == "spot" and seconds > longest:
        yield (
            period,
            f"{seconds} s to stop, and a Spot node gives its pods {usual} s ({longest} s at most)",
        )


@rule(
    Pod,
    "PT309",
    "error",
    "No time to stop",
    source=sources.TERMINATION,
    fix="Give the training some seconds to save: 15 on Spot.",
)
def no_grace(pod: Pod) -> Iterator[Problem]:
    period = pod.spec["terminationGracePeriodSeconds"]
    if pod.finite and pod.gpus and period.integer == 0:
        yield period, "0 s to stop: the pod is killed at once, and what it had not saved is lost"


@rule(
    Job,
    "PT310",
    "warning",
    "A finished Job goes before anybody has read its logs",
    source=sources.JOBSET_LOGS,
    fix="Set ttlSecondsAfterFinished to a day, or copy the logs to a bucket.",
)
def short_ttl(job: Job) -> Iterator[Problem]:
    if job.jobset is None:
        yield from _short(job.node["ttlSecondsAfterFinished"], "Job")


@rule(
    JobSet,
    "PT311",
    "warning",
    "A finished JobSet goes before anybody has read its logs",
    source=sources.JOBSET_LOGS,
    fix="Set ttlSecondsAfterFinished of the JobSet to a day, or copy the logs to a bucket.",
)
def short_jobset_ttl(jobset: JobSet) -> Iterator[Problem]:
    yield from _short(jobset.node["ttlSecondsAfterFinished"], "JobSet")


def _short(ttl: Node, kind: str) -> Iterator[Problem]:
    if ttl.integer is not None and ttl.integer < SHORTEST_TTL:
        yield (
            ttl,
            f"the {kind} and its pods' logs are deleted {ttl.integer} s after the end, also after a failure",
        )


@rule(
    JobSet,
    "PT312",
    "warning",
    "A lifetime on a Job beside others in a JobSet",
    source=sources.JOBSET,
    fix="Move ttlSecondsAfterFinished to the spec of the JobSet.",
)
def inner_ttl(jobset: JobSet) -> Iterator[Problem]:
    several = len(jobset.jobs) > 1 or any(job.replicas > 1 for job in jobset.jobs)
    for job in jobset.jobs:
        ttl = job.node["ttlSecondsAfterFinished"]
        if ttl.present and several:
            yield ttl, "a Job that is done deletes itself while others run, and the JobSet makes it anew"


@rule(
    Job,
    "PT313",
    "info",
    "Finished Jobs stay for ever",
    source=sources.JOB,
    fix="Set ttlSecondsAfterFinished, to a day for example.",
)
def no_ttl(job: Job) -> Iterator[Problem]:
    if job.document.kind == "Job" and job.pod.gpus and not job.node["ttlSecondsAfterFinished"].present:
        yield job.node, "the Job stays until somebody deletes it"


RULES = (
    shared_memory,
    memory_medium,
    memory_limit,
    requests,
    fits,
    head_room,
    disk,
    spot_grace,
    no_grace,
    short_ttl,
    short_jobset_ttl,
    inner_ttl,
    no_ttl,
)
