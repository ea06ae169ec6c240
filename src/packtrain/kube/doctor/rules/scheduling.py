"""Rules on where a pod goes: the nodes that it selects, the taints it tolerates, the GPUs it takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from packtrain.kube.doctor import facts, sources
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.workloads import (
    ACCELERATOR,
    CAPACITIES,
    FLEX_START,
    GPU,
    INSTANCE_TYPE,
    NODE_POOL,
    QUEUE,
    SPOT,
    Pod,
)
from packtrain.plan.machines import machines

#: What else chooses nodes with the right GPUs.
_CHOOSERS = (
    ACCELERATOR,
    NODE_POOL,
    INSTANCE_TYPE,
    "cloud.google.com/compute-class",
    "cloud.google.com/machine-family",
    "cloud.google.com/reservation-name",
    "kubernetes.io/hostname",
)


@rule(
    Pod,
    "PT201",
    "warning",
    "A GPU pod does not tolerate the GPU taint itself",
    source=sources.GPUS,
    fix="Add a toleration for the key nvidia.com/gpu: Kueue looks for it before GKE adds one.",
)
def toleration(pod: Pod) -> Iterator[Problem]:
    queued = pod.document.root.at("metadata", "labels", QUEUE).present
    if pod.gpus and not pod.tolerates(GPU) and (queued or (pod.finite and pod.document.kind != "Pod")):
        yield pod.spec["tolerations"], "the pod takes GPUs and does not tolerate the taint nvidia.com/gpu"


@rule(
    Pod,
    "PT202",
    "warning",
    "A GPU pod does not say which GPUs",
    source=sources.GPUS,
    fix="Add a nodeSelector on cloud.google.com/gke-accelerator (or on the node pool, or a compute class).",
)
def selector(pod: Pod) -> Iterator[Problem]:
    if (
        pod.gpus
        and all(pod.selected(label) is None for label in _CHOOSERS)
        and pod.document.kind != "DaemonSet"
    ):
        yield pod.spec["nodeSelector"], "the pod takes GPUs and may land on a node with any kind of them"


@rule(
    Pod,
    "PT203",
    "error",
    "The accelerator label has a value that no node has",
    source=sources.GPU_LABELS,
    fix="Write the label as `gcloud compute accelerator-types list` names the GPU.",
)
def accelerator_name(pod: Pod) -> Iterator[Problem]:
    wanted = pod.selected(ACCELERATOR)
    if wanted is None or not wanted.text or wanted.text in facts.accelerators():
        return
    # A number that no known GPU has is a new GPU's.
    numbers = set(re.findall(r"\d+", wanted.text))
    known = [name for name in facts.accelerators() if numbers <= set(re.findall(r"\d+", name))]
    near = difflib.get_close_matches(wanted.text, known, n=1, cutoff=0.7)
    if near:
        yield wanted, f"{wanted.text} is no accelerator of GKE; did you mean {near[0]}?"


@rule(
    Pod,
    "PT204",
    "error",
    "The machine type does not have the accelerator",
    source=sources.GPU_MACHINES,
    fix="Select by one of the two labels, or make them agree.",
)
def accelerator_and_machine(pod: Pod) -> Iterator[Problem]:
    named, accelerator = pod.selected(INSTANCE_TYPE), pod.accelerator
    machine = machines().get(named.text) if named is not None else None
    if named is not None and machine is not None and accelerator not in ("", machine.accelerator):
        yield named, f"{machine.name} has {machine.accelerator}, and the pod selects {accelerator}"


@rule(
    Pod,
    "PT205",
    "error",
    "More GPUs than a machine has",
    source=sources.GPU_MACHINES,
    fix="Take at most what one machine has, and more pods.",
)
def too_many_gpus(pod: Pod) -> Iterator[Problem]:
    fitting = [each for each in machines().values() if each.accelerator == pod.accelerator]
    named = pod.selected(INSTANCE_TYPE)
    fitting = [each for each in fitting if named is None or each.name == named.text] or fitting
    most = max((each.gpus for each in fitting), default=16)
    if pod.gpus > most:
        where = next(each for each in pod.containers if each.gpus).node["resources"]
        machine = f"a machine with {pod.accelerator}" if fitting else "any machine"
        yield where, f"the pod takes {pod.gpus} GPUs, and {machine} has at most {most}: it stays Pending"


@rule(
    Pod,
    "PT206",
    "warning",
    "GPUs that are paid and not used",
    source=sources.GPU_MACHINES,
    fix="Take all GPUs of the machine, or a smaller machine.",
)
def idle_gpus(pod: Pod) -> Iterator[Problem]:
    machine = pod.machine
    if machine is not None and 0 < pod.gpus < machine.gpus and pod.finite:
        where = next(each for each in pod.containers if each.gpus).node["resources"]
        yield (
            where,
            f"the pod takes {pod.gpus} of the {machine.gpus} GPUs of {machine.name}, paid as a whole",
        )


@rule(
    Pod,
    "PT207",
    "error",
    "GPUs are asked for in a way that the API refuses",
    source=sources.GPUS,
    fix="Write nvidia.com/gpu under limits; a request, where there is one, must be the same whole number.",
)
def gpu_limits(pod: Pod) -> Iterator[Problem]:
    for container in pod.containers:
        resources = container.node["resources"]
        limit, request = resources["limits"][GPU], resources["requests"][GPU]
        if request.present and not limit.present:
            yield request, f"container {container.name} requests GPUs without a limit"
        elif request.present and request.quantity != limit.quantity:
            yield request, f"container {container.name} requests other GPUs than its limit says"
        elif limit.quantity is not None and limit.quantity % 1:
            yield limit, f"container {container.name} asks for a number of GPUs that is not whole"


@rule(
    Pod,
    "PT208",
    "error",
    "Two kinds of capacity at once",
    source=sources.FLEX_START,
    fix="Select one: Spot, flex-start, or a queued pool by its name.",
)
def one_capacity(pod: Pod) -> Iterator[Problem]:
    chosen = [
        (name, wanted)
        for label, name in CAPACITIES
        if (wanted := pod.selected(label)) is not None and wanted.is_true
    ]
    if len(chosen) > 1:
        names = " and ".join(name for name, _ in chosen)
        yield chosen[-1][1], f"the pod selects nodes that are {names} at once; no node is"


@rule(
    Pod,
    "PT209",
    "info",
    "Spot nodes are selected, and their taint is not tolerated",
    source=sources.SPOT,
    fix='Tolerate the same key with the value "true", for pools with the taint (Autopilot adds it itself).',
)
def capacity_toleration(pod: Pod) -> Iterator[Problem]:
    wanted = pod.selected(SPOT)
    if wanted is not None and wanted.is_true and not pod.tolerates(SPOT):
        yield wanted, f"the pod selects {SPOT} and does not tolerate the taint of that name"


@rule(
    Pod,
    "PT210",
    "error",
    "A capacity label with a value that no node has",
    source=sources.SPOT,
    fix='Write "true", in quotes; to keep off such nodes use node affinity with DoesNotExist.',
)
def capacity_value(pod: Pod) -> Iterator[Problem]:
    for label in (SPOT, FLEX_START):
        wanted = pod.spec.at("nodeSelector", label)
        if wanted.text and wanted.text != "true":
            yield wanted, f'no node has {label}: {wanted.text!r}; the label is there as "true" or not at all'


@rule(
    Document,
    "PT211",
    "error",
    "A label, annotation, selector or variable that is not a text",
    source=sources.LABELS,
    fix='Put the value in quotes: "true", "8".',
)
def texts(document: Document) -> Iterator[Problem]:
    if not document.is_object or document.kind == "CustomResourceDefinition":
        return
    for node in document.root.walk():
        last = node.path[-1:]
        within = node.path[-2:-1]
        if last in (("nodeSelector",), ("matchLabels",)) or (
            last in (("labels",), ("annotations",)) and within == ("metadata",)
        ):
            values = list(node.pairs())
        elif last == ("env",):
            values = [(each["name"].text, each["value"]) for each in node]
        else:
            continue
        for name, value in values:
            if value.present and not isinstance(value.value, str):
                yield value, f"{name} is {_yaml(value.value)}, and the API takes only a text there"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else "no text"


RULES = (
    toleration,
    selector,
    accelerator_name,
    accelerator_and_machine,
    too_many_gpus,
    idle_gpus,
    gpu_limits,
    one_capacity,
    capacity_toleration,
    capacity_value,
    texts,
)
