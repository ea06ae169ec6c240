"""Views of what runs pods: the pod templates of any object, their containers, and the Job around them.

Pods are found by their form, a mapping with a list of ``containers``, wherever they stand: in a Pod, Job,
JobSet, Deployment, CronJob, PyTorchJob, RayJob or a kind that is not known here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.tree import Node, Path
from packtrain.kube.fabrics import Fabric, fabric_between
from packtrain.plan.machines import Machine, machines

GPU = "nvidia.com/gpu"
ACCELERATOR = "cloud.google.com/gke-accelerator"
NODE_POOL = "cloud.google.com/gke-nodepool"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
SPOT = "cloud.google.com/gke-spot"
FLEX_START = "cloud.google.com/gke-flex-start"
QUEUED = "cloud.google.com/gke-queued"
CAPACITIES = ((SPOT, "spot"), (FLEX_START, "flex-start"), (QUEUED, "queued"))
QUEUE = "kueue.x-k8s.io/queue-name"
INTERFACES = "networking.gke.io/interfaces"
DAEMON_IMAGE = re.compile(r"gpudirect-tcpxo/tcpgpudmarxd-dev:v?([\w.-]+)")
PLUGIN_IMAGE = re.compile(r"gpudirect-tcpxo/nccl-plugin-gpudirecttcpx-dev:v?([\w.-]+)")
#: Kinds whose pods are meant to come to an end.
FINITE = frozenset(
    {"Pod", "Job", "CronJob", "JobSet", "PyTorchJob", "TFJob", "MPIJob", "RayJob", "TrainJob", "VolcanoJob"}
    | {"TrainingRuntime", "ClusterTrainingRuntime", "Workflow", "PodTemplate"}
)
_SHELL = re.compile(r"^(?:/usr)?(?:/bin/)?(?:ba|da|z|k|a)?sh$")


@dataclass(frozen=True, eq=False)
class Bundle:
    """The documents that are judged together: one file's, or those of files named together."""

    documents: tuple[Document, ...]

    def images(self, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
        """Tag and file of each image that fits."""
        for document in self.documents:
            for node in document.root.walk() if document.is_object else ():
                if found := pattern.search(node.text if node.path[-1:] == ("image",) else ""):
                    yield found[1], document.source

    def kind(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document.kind == kind]


@dataclass(frozen=True)
class Container:
    node: Node
    init: bool

    @property
    def name(self) -> str:
        return self.node["name"].text

    @property
    def image(self) -> str:
        return self.node["image"].text

    @property
    def sidecar(self) -> bool:
        """A native sidecar: an init container that runs on beside the others."""
        return self.init and self.node["restartPolicy"].text == "Always"

    @property
    def gpus(self) -> int:
        resources = self.node["resources"]
        return int(resources["limits"][GPU].quantity or resources["requests"][GPU].quantity or 0)

    @property
    def argv(self) -> tuple[str, ...]:
        words = [*self.node["command"], *self.node["args"]]
        return tuple(str(word.value) for word in words if isinstance(word.value, str | int | float))

    @property
    def script(self) -> str:
        """The text that a shell runs as the container's first process, or empty."""
        argv = self.argv
        if argv and _SHELL.match(argv[0]):
            for index, word in enumerate(argv[1:], start=1):
                if re.fullmatch(r"-\w*c\w*", word):
                    rest = [each for each in argv[index + 1 :] if not re.fullmatch(r"[-+]\w+", each)]
                    return rest[0] if rest else ""
        return ""

    def request(self, resource: str) -> float | None:
        """What the container asks for; a limit alone counts as a request."""
        resources = self.node["resources"]
        asked = resources["requests"][resource].quantity
        return asked if asked is not None else resources["limits"][resource].quantity

    def mounts(self, path: str) -> Node | None:
        for mount in self.node["volumeMounts"]:
            if mount["mountPath"].text.rstrip("/") == path:
                return mount
        return None

    def environment(self, name: str) -> Node | None:
        for entry in self.node["env"]:
            if entry["name"].text == name:
                return entry
        return None


@dataclass(frozen=True)
class Job:
    """A batch/v1 Job, alone, in a CronJob, or as one of a JobSet's."""

    document: Document
    node: Node
    """The Job's spec."""
    jobset: Node | None
    """The spec of the JobSet around it."""
    replicated: Node | None
    """Its entry among the JobSet's replicatedJobs."""
    pod: Pod

    @property
    def pod_failure_rules(self) -> list[Node]:
        return list(self.node.at("podFailurePolicy", "rules"))

    @property
    def pods(self) -> int:
        """Pods at the same time, of all replicas."""
        return max(self.node["parallelism"].integer or 1, 1) * self.replicas

    @property
    def replicas(self) -> int:
        """How often the JobSet runs the Job."""
        number = self.replicated["replicas"].integer if self.replicated is not None else None
        return 1 if number is None else max(number, 0)


@dataclass(frozen=True)
class JobSet:
    document: Document
    node: Node
    """The JobSet's spec."""
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Pod:
    document: Document
    bundle: Bundle
    node: Node
    """The template: metadata and spec."""

    @property
    def spec(self) -> Node:
        return self.node["spec"]

    @property
    def annotations(self) -> Node:
        return self.node.at("metadata", "annotations")

    @property
    def containers(self) -> list[Container]:
        """The ordinary ones and the init containers."""
        ordinary = [Container(node, init=False) for node in self.spec["containers"]]
        return ordinary + [Container(node, init=True) for node in self.spec["initContainers"]]

    @property
    def workers(self) -> list[Container]:
        """The containers that the pod is there for: those with GPUs, else all that are no helpers."""
        ordinary = [container for container in self.containers if not container.init]
        chosen = [container for container in ordinary if container.gpus]
        return chosen or [each for each in ordinary if not DAEMON_IMAGE.search(each.image)]

    @property
    def gpus(self) -> int:
        return sum(container.gpus for container in self.containers)

    @property
    def finite(self) -> bool:
        return self.document.kind in FINITE

    @property
    def daemon(self) -> Container | None:
        """GPUDirect-TCPXO's receive daemon."""
        return next((each for each in self.containers if DAEMON_IMAGE.search(each.image)), None)

    def selected(self, label: str) -> Node | None:
        """The value that the nodes' ``label`` must have, by node selector or required node affinity."""
        direct = self.spec.at("nodeSelector", label)
        if direct.present:
            return direct
        required = self.spec.at("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
        for term in required["nodeSelectorTerms"]:
            for expression in term["matchExpressions"]:
                if expression["key"].text == label and expression["operator"].text in ("In", "Exists"):
                    return expression["values"][0]
        return None

    def tolerates(self, taint: str) -> bool:
        return any(
            toleration["key"].text == taint
            or (not toleration["key"].present and toleration["operator"].text == "Exists")
            for toleration in self.spec["tolerations"]
        )

    @property
    def capacity(self) -> str:
        """spot, flex-start or queued where the pod says so; else empty."""
        for label, name in CAPACITIES:
            wanted = self.selected(label)
            if wanted is not None and (wanted.is_true or not wanted.present):
                return name
        taints = [toleration["key"].text for toleration in self.spec["tolerations"]]
        return "queued" if QUEUED in taints else ""

    @property
    def accelerator(self) -> str:
        wanted = self.selected(ACCELERATOR)
        return wanted.text if wanted is not None else ""

    @property
    def machine(self) -> Machine | None:
        """The machine that the pod will be on, where it says so, or where only one has its GPUs."""
        named = self.selected(INSTANCE_TYPE)
        if named is not None and named.text in machines():
            return machines()[named.text]
        fitting = [each for each in machines().values() if each.accelerator == self.accelerator]
        return fitting[0] if len(fitting) == 1 else None

    @property
    def fabric(self) -> Fabric | None:
        """What connects the GPUs of its nodes, where there are several and they use whole machines."""
        named = self.selected(INSTANCE_TYPE)
        fitting = [
            each
            for each in machines().values()
            if each.gpus == self.gpus
            and (each.name == named.text if named is not None else each.accelerator == self.accelerator)
        ]
        return fabric_between(fitting[0], self.nodes or 1) if len(fitting) == 1 else None

    @property
    def shared_memory(self) -> Node | None:
        """The volume at /dev/shm of a container with GPUs."""
        for container in self.workers:
            if (mount := container.mounts("/dev/shm")) is not None:  # noqa: S108  (the pod's, not ours)
                return self.volume(mount["name"].text)
        return None

    def volume(self, name: str) -> Node | None:
        return next((each for each in self.spec["volumes"] if each["name"].text == name), None)

    @property
    def nodes(self) -> int | None:
        """GPU nodes that work together in the document, where that can be seen."""
        root = self.document.root
        kind = self.document.kind
        if kind in ("Job", "CronJob", "JobSet") or any(key == "replicatedJobs" for key in self.node.path):
            jobs = [job for job in jobs_of(self.document, self.bundle) if job.pod.gpus]
            return sum(job.pods for job in jobs) or None
        if kind == "LeaderWorkerSet":
            return root.at("spec", "leaderWorkerTemplate", "size").integer
        if kind in ("PyTorchJob", "TFJob", "MPIJob"):
            pods = [pod for pod in pods_of(self.document, self.bundle) if pod.gpus]
            counts = [_parent(pod)["replicas"].integer for pod in pods]
            return sum(1 if count is None else count for count in counts) or None
        return None


def _parent(pod: Pod) -> Node:
    return pod.document.root.at(*pod.node.path[len(pod.document.root.path) : -1])


@functools.lru_cache(maxsize=16)
def pods_of(document: Document, bundle: Bundle) -> tuple[Pod, ...]:
    return tuple(_pods_of(document, bundle))


def _pods_of(document: Document, bundle: Bundle) -> Iterator[Pod]:
    if not document.is_object or document.kind == "CustomResourceDefinition":
        return
    for node in document.root.walk():
        spec = node["spec"]
        containers = spec["containers"].value
        # Without any image it is a patch (of Kustomize, for example), and what it leaves out says nothing.
        if isinstance(containers, list) and any(each["image"].present for each in spec["containers"]):
            yield Pod(document, bundle, node)


def jobs_of(document: Document, bundle: Bundle) -> Iterator[Job]:
    base = len(document.root.path)
    for pod in pods_of(document, bundle):
        path: Path = pod.node.path[base:]
        inside = "replicatedJobs" in path
        if path[-1:] != ("template",) or not (inside or document.kind in ("Job", "CronJob")):
            continue
        spec = document.root.at(*path[:-1])
        if inside:
            index = path.index("replicatedJobs")
            jobset = document.root.at(*path[:index])
            yield Job(document, spec, jobset, document.root.at(*path[: index + 2]), pod)
        else:
            yield Job(document, spec, None, None, pod)


def jobsets_of(document: Document, bundle: Bundle) -> Iterator[JobSet]:
    found: dict[Path, list[Job]] = {}
    for job in jobs_of(document, bundle):
        if job.jobset is not None:
            found.setdefault(job.jobset.path, []).append(job)
    for jobs in found.values():
        assert jobs[0].jobset is not None
        yield JobSet(document, jobs[0].jobset, tuple(jobs))
