"""The preflight pod: asks, with the pod's own rights and without a GPU, whether the run will be let in.

What the user's machine may read says nothing of what the pod may. Same account, Secret, image and run
file; a small pod on any node, which ends in seconds with one of packtrain's exit codes.
"""

from __future__ import annotations

from packtrain.kube import failure
from packtrain.kube.checks import check_for_cluster
from packtrain.kube.launch import Launch
from packtrain.kube.manifests import metadata, run_file
from packtrain.kube.names import PREFLIGHT, RUN_FILE, labels, preflight_name
from packtrain.kube.pod import environment, mounts, volumes
from packtrain.kube.spec import Container, Manifest, Pod

COMMAND = ("python", "-m", "packtrain.run.preflight", f"$(PACKTRAIN_CONFIG)/{RUN_FILE}")
#: With the pull of an image of some GB, and a node that has to be made first.
DEADLINE = 1800
#: A service that is away for a moment, or rights that are not in force yet everywhere.
RETRIES = 3
KEPT = 3600


def render_preflight(launch: Launch) -> list[Manifest]:
    """The run's ConfigMap, and a Job.

    Errors: :class:`~packtrain.errors.ConfigError` for a run file that cannot run in a cluster.
    """
    check_for_cluster(launch.config)
    name = launch.config.name
    spec = {
        "backoffLimit": RETRIES,
        "podFailurePolicy": failure.job_policy(PREFLIGHT),
        "activeDeadlineSeconds": DEADLINE,
        "ttlSecondsAfterFinished": KEPT,
        "template": _pod(launch).template(),
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(launch, preflight_name(name), PREFLIGHT),
        "spec": spec,
    }
    return [run_file(launch), job]


def _pod(launch: Launch) -> Pod:
    config = launch.config
    container = Container(
        name=PREFLIGHT,
        image=launch.image,
        command=COMMAND,
        env=environment(launch),
        requests={"cpu": "250m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
        limits={"memory": "2Gi"},
        mounts=mounts(),
    )
    return Pod(
        service_account=config.cluster.service_account,
        containers=(container,),
        volumes=volumes(launch),
        labels=labels(config.name, launch.run_id, PREFLIGHT),
        node_selector={"kubernetes.io/arch": "amd64"},
        grace_seconds=10,
    )
