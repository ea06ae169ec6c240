"""Making a run's objects in a cluster, and taking them away again: each can be cut and done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from packtrain.errors import BY_EXIT_CODE, BugError, ConflictError, PacktrainError, UnavailableError
from packtrain.kube import observe
from packtrain.kube.api import JOB, POD, Cluster, Kind, Object, kind_of
from packtrain.kube.api_errors import AlreadyThereError
from packtrain.kube.launch import Launch
from packtrain.kube.names import PREFLIGHT, RUN_ID_LABEL, RUN_LABEL, preflight_name, selector
from packtrain.kube.observe import Pace, Say, Watching
from packtrain.kube.pod_facts import current, read_pod
from packtrain.kube.preflight import render_preflight

#: Seconds for a job and its pods to go: their grace, and what the kubelet takes.
GOING = 300.0


def make(cluster: Cluster, manifests: Sequence[Object]) -> Object:
    """Create what is not there; the Job or JobSet, made now or found.

    Errors: :class:`ConflictError` where another run's job has the name.
    """
    last: Object = {}
    for manifest in manifests:
        last = _made(cluster, manifest)
    return last


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


def preflight(cluster: Cluster, launch: Launch, say: Say, pace: Pace) -> None:
    """Ask in the cluster, with the pod's own rights, what the run will need.

    Errors: what the pod found (77, 78, 69 …), as if it had been found here.
    """
    name = preflight_name(launch.config.name)
    remove(cluster, JOB, name)
    make(cluster, render_preflight(launch))
    watching = Watching(
        cluster, name, JOB, launch.config.name, lambda line: say(f"preflight: {line}"), PREFLIGHT, pace=pace
    )
    state = watching.to_end()
    result = _result(cluster, launch.config.name)
    for check in result.get("checks", []):
        if check["ok"]:
            say(f"preflight: {check['name']} {check['subject']}: the pod may use it")
    failed = [check for check in result.get("checks", []) if not check["ok"]]
    if state.phase == "succeeded" and not failed:
        remove(cluster, JOB, name)
        return
    code = state.exit_code or int(result.get("exit_code") or BugError.exit_code)
    kind = BY_EXIT_CODE.get(code, BugError)
    if not failed:
        raise kind(f"the preflight pod: {state.detail}", hint=state.hint)
    lines = "\n".join(f"from the pod: {check['message']}" for check in failed)
    raise kind(lines, hint=next((_for_pod(check) for check in failed if check.get("hint")), None))


def _for_pod(check: dict[str, Any]) -> str:
    """What helps a pod: its token and its rights are others than the user's."""
    if check["name"] == "bucket":
        return f"{check['hint']}; packtrain cloud setup RUN gives the pod's account its rights"
    return f"{check['hint']}; packtrain cloud setup RUN puts the token into the cluster"


def _result(cluster: Cluster, run: str) -> dict[str, Any]:
    """The line that the preflight program has written last."""
    pods = current([read_pod(pod) for pod in cluster.list(POD, selector(run, PREFLIGHT)).items])
    for pod in reversed(pods):
        with suppress(PacktrainError), cluster.log(pod.name, pod.container, tailLines="20") as lines:
            for line in reversed(list(lines)):
                with suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict) and found.get("packtrain") == "preflight":
                        return found
    return {}
