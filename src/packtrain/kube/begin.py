"""Making a run's objects in a cluster, and taking them away again: each can be cut and done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from packtrain.errors import AccessError, ConflictError, UnavailableError
from packtrain.kube import observe
from packtrain.kube.api import CONFIG_MAP, Cluster, Kind, Object, kind_of
from packtrain.kube.api_errors import AlreadyThereError
from packtrain.kube.names import RUN_ID_LABEL, RUN_LABEL, selector

#: Seconds for a job and its pods to go: their grace, and what the kubelet takes.
GOING = 300.0


def make(cluster: Cluster, manifests: Sequence[Object]) -> Object:
    """Create what is not there; the Job or JobSet, made now or found.

    Errors: :class:`ConflictError` where another run's job has the name.
    """
    run_file, workload = manifests
    _made(cluster, run_file)
    job = _made(cluster, workload)
    give(cluster, run_file, job)
    return job


def give(cluster: Cluster, run_file: Object, job: Object) -> None:
    """Let a job own the ConfigMap with its run file: both are gone when the job's time to live is over.

    The job that owned it before may have taken it along a moment ago: then it is made again. Without the
    right to change it, or with a server that is away, it stays until ``packtrain delete``.
    """
    with suppress(AccessError, UnavailableError):
        found = cluster.get(CONFIG_MAP, run_file["metadata"]["name"]) or {"metadata": {}}
        owners = found["metadata"].get("ownerReferences") or []
        uid = job["metadata"]["uid"]
        if uid in [owner["uid"] for owner in owners]:
            return
        # Others' are kept: a preflight of the same run file must not take it away from a job that runs.
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": job["metadata"]["name"]}
        metadata = {key: run_file["metadata"][key] for key in ("name", "namespace", "labels")}
        metadata["ownerReferences"] = [*owners, {**owner, "uid": uid}]
        kept = {key: run_file[key] for key in ("apiVersion", "kind", "immutable", "data")}
        cluster.apply(kept | {"metadata": metadata}, force=True)


def run_file_of(cluster: Cluster, job: Object) -> Object | None:
    """The ConfigMap that a job's pods read; None where it is gone."""
    template = job["spec"].get("template") or job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    names = [each["configMap"]["name"] for each in template["spec"].get("volumes", []) if "configMap" in each]
    return cluster.get(CONFIG_MAP, names[0]) if names else None


def _made(cluster: Cluster, manifest: Object) -> Object:
    try:
        return cluster.create(manifest)
    except AlreadyThereError:
        found = cluster.get(kind_of(manifest), manifest["metadata"]["name"])
        if found is None:  # it went between two questions
            return cluster.create(manifest)
        if manifest["kind"] == "ConfigMap":
            return found  # of the same content: its name says so
        mine, theirs = manifest["metadata"]["labels"], found["metadata"].get("labels") or {}
        if any(mine[key] != theirs.get(key) for key in (RUN_LABEL, RUN_ID_LABEL)):
            raise ConflictError(
                f"the {manifest['kind']} {manifest['metadata']['name']} in the cluster is of another run",
                hint="packtrain status RUN shows it, packtrain cancel RUN takes it away",
            ) from None
        return found


def remove(
    cluster: Cluster,
    kind: Kind,
    name: str,
    *,
    limit: float = GOING,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Delete a job after its pods, and wait until it is gone; whether it was there.

    Errors: :class:`UnavailableError` where it does not go.
    """
    found = cluster.get(kind, name)
    if found is None:
        return False
    uid, begun = found["metadata"]["uid"], clock()
    with suppress(ConflictError):  # another one has the name by now
        cluster.delete(kind, name, uid=uid, foreground=True)
    while (left := cluster.get(kind, name)) is not None and left["metadata"]["uid"] == uid:
        if clock() - begun > limit:
            raise UnavailableError(
                f"the {kind.spoken} {name} is still being deleted after {limit:.0f} seconds",
                hint=f"look at its pods: kubectl get pods -n {cluster.namespace} -l {selector(name)}",
            )
        time.sleep(observe.PACE.least)
    return True
