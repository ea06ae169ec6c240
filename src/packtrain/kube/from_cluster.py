"""``packtrain cloud check --from-cluster``: what the laptop cannot prove, asked by a pod."""

from __future__ import annotations

from packtrain.config import RunConfig
from packtrain.errors import PacktrainError
from packtrain.gcp.check import Finding
from packtrain.gcp.image.lookup import resolve_digest
from packtrain.kube.access import connect
from packtrain.kube.asking import ask_in_cluster
from packtrain.kube.submit import World, make_launch
from packtrain.rundir import new_run_id


def findings_from_cluster(config: RunConfig, world: World) -> list[Finding]:
    """What a pod with the run's account, Secret and image may use; why none could be asked, as a finding."""
    try:
        with connect(config, world.runner, world.patience) as cluster:
            launch = make_launch(config, new_run_id(), resolve_digest(config, world.runner))
            answers = ask_in_cluster(cluster, launch, world.say, world.pace)
    except PacktrainError as error:
        return [_finding("preflight pod", "", error)]
    return [_finding(f"from a pod: {each.name}", each.subject, each.error) for each in answers]


def _finding(title: str, subject: str, error: PacktrainError | None) -> Finding:
    if error is None:
        return Finding(title, "ok", f"{subject}: the pod may use it")
    return Finding(title, "failed", str(error), error.hint, error.exit_code)
