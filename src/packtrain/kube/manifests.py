"""From a run to its Kubernetes manifests: a pure function, so that what is shown is what is made.

One node is a Job, several are a JobSet; the run file is an immutable ConfigMap. Nothing secret is in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from packtrain.kube import failure, limits
from packtrain.kube.checks import check_for_cluster
from packtrain.kube.launch import Launch
from packtrain.kube.names import (
    CONFIG_HASH,
    OUTPUT_URI,
    REPLICATED_JOB,
    RUN_FILE,
    RUN_URI,
    TRAINER,
    config_map_name,
    labels,
)
from packtrain.kube.pod import of_several, trainer
from packtrain.kube.rdma import with_rdma
from packtrain.kube.spec import Manifest, Pod
from packtrain.kube.tcpx import with_tcpx
from packtrain.kube.tcpxo import with_tcpxo

QUEUE_NAME = "kueue.x-k8s.io/queue-name"
MAX_EXEC_TIME = "kueue.x-k8s.io/max-exec-time-seconds"
MAX_RUN_DURATION = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"
#: What the pods of several nodes need besides, by what connects their GPUs.
_FABRICS = {"tcpxo": with_tcpxo, "tcpx": with_tcpx, "rdma": with_rdma}


def render(launch: Launch) -> list[Manifest]:
    """The ConfigMap, then the Job or the JobSet.

    Errors: :class:`~packtrain.errors.ConfigError` for a run file that cannot run in a cluster.
    """
    check_for_cluster(launch.config)
    pod = trainer(launch)
    if launch.config.cluster.nodes == 1:
        return [run_file(launch), job(launch, pod)]
    pod = of_several(pod, launch)
    if launch.machine.fabric in _FABRICS:
        pod = _FABRICS[launch.machine.fabric](pod, launch.machine)
    return [run_file(launch), jobset(launch, pod)]


def to_yaml(manifests: Sequence[Manifest]) -> str:
    """As ``kubectl apply -f -`` reads them; longer texts stand as they are, line by line."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=110, explicit_start=True)


def run_file(launch: Launch) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(launch, config_map_name(launch.config.name, launch.run_yaml)),
        "immutable": True,
        "data": {RUN_FILE: launch.run_yaml},
    }


def job(launch: Launch, pod: Pod) -> Manifest:
    deadline = limits.active_deadline(launch)
    spec: Manifest = {"suspend": True} if launch.config.cluster.queue else {}
    spec |= {"backoffLimit": failure.RETRIES, "podFailurePolicy": failure.job_policy(TRAINER)}
    spec |= {"activeDeadlineSeconds": deadline} if deadline else {}
    spec |= {"ttlSecondsAfterFinished": limits.KEPT, "template": pod.template()}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": workload_metadata(launch),
        "spec": spec,
    }


def jobset(launch: Launch, pod: Pod) -> Manifest:
    nodes = launch.config.cluster.nodes
    deadline = limits.active_deadline(launch)
    node_job: Manifest = {
        "parallelism": nodes,
        "completions": nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": failure.node_policy(TRAINER),
    }
    node_job |= {"activeDeadlineSeconds": deadline} if deadline else {}
    node_job |= {"template": pod.template()}
    replicated = {
        "name": REPLICATED_JOB,
        "replicas": 1,
        "template": {"metadata": {"labels": dict(pod.labels)}, "spec": node_job},
    }
    spec: Manifest = {"suspend": True} if launch.config.cluster.queue else {}
    spec |= {
        "ttlSecondsAfterFinished": limits.KEPT,
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "failurePolicy": failure.jobset_policy(),
        "replicatedJobs": [replicated],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": workload_metadata(launch),
        "spec": spec,
    }


def metadata(launch: Launch, name: str, role: str = TRAINER) -> Manifest:
    """Name, place and labels that every object of a run has."""
    return {
        "name": name,
        "namespace": launch.config.cluster.namespace,
        "labels": labels(launch.config.name, launch.run_id, role),
    }


def workload_metadata(launch: Launch) -> Manifest:
    """Of the Job or JobSet itself: where the run is, and what Kueue reads. It reads none of it deeper."""
    cluster = launch.config.cluster
    found = metadata(launch, launch.config.name)
    annotations = {
        CONFIG_HASH: launch.config_hash,
        RUN_URI: launch.run_uri,
        OUTPUT_URI: launch.output_uri,
    }
    longest = limits.longest_run(launch)
    if cluster.queue:
        found["labels"][QUEUE_NAME] = cluster.queue
        found["labels"] |= {MAX_EXEC_TIME: str(longest)} if longest else {}
    if cluster.capacity == "queued":
        annotations[MAX_RUN_DURATION] = str(longest)
    return found | {"annotations": annotations}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """What stands twice is written twice: an anchor is no help to a reader of manifests."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
