"""What a pod may use, as findings of ``packtrain cloud check --from-cluster``."""

from __future__ import annotations

import json

import pytest
from standins.kube_store import Object
from standins.kube_story import Cluster
from submitted import QUICK, Site, good_preflight

from packtrain.kube.from_cluster import findings_from_cluster
from packtrain.kube.submit import World
from packtrain.runfile import load


def findings(site: Site) -> list[tuple[str, str, int]]:
    found = findings_from_cluster(load(site.run_file()).config, World(lambda line: None, pace=QUICK))
    return [(each.verdict, each.title, each.exit_code) for each in found]


def test_a_pod_that_may_use_everything(site: Site) -> None:
    site.api.play("*", good_preflight)
    assert findings(site) == [("ok", "from a pod: model", 0)]
    assert site.api.names("Job") == []
    assert site.bucket.names() == [], "no run has begun"


@pytest.mark.parametrize("heard", [True, False])
def test_a_pod_that_may_not(site: Site, heard: bool) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = cluster.pod(job)
        pod.run("system-node")
        checks = [
            {"name": "model", "subject": "org/base", "ok": True},
            {
                "name": "bucket",
                "subject": "gs://b",
                "ok": False,
                "exit_code": 77,
                "message": "no",
                "hint": None,
            },
        ]
        if heard:
            pod.log("noise", json.dumps({"packtrain": "preflight", "exit_code": 77, "checks": checks}))
        pod.exit(77)
        cluster.fail(job, "PodFailurePolicy")

    site.api.play("*", story)
    expected = [("failed", "from a pod: bucket", 77), ("ok", "from a pod: model", 0)]
    assert findings(site) == (expected if heard else [("failed", "preflight pod", 77)])


def test_a_cluster_that_cannot_be_asked(site: Site) -> None:
    (site.folder / "kubeconfig").unlink()
    assert findings(site) == [("failed", "preflight pod", 78)]
