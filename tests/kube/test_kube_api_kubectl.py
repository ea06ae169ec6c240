"""The stand-in API server holds what a real one does: tried with the real kubectl, old and new."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectls import VERSIONS, find_kubectl
from standins.kube_api import Fault, KubeApi
from standins.kube_story import Cluster

PROGRAMS = {version: str(path) for version in VERSIONS if (path := find_kubectl(version))}
if not PROGRAMS and (of_path := shutil.which("kubectl")):
    PROGRAMS = {"of PATH": of_path}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="kubectl is not installed"),
]


@pytest.fixture(params=PROGRAMS)
def kubectl(request: pytest.FixtureRequest, kube_api: KubeApi, tmp_path: Path) -> Any:
    kubeconfig = kube_api.kubeconfig(tmp_path / "kubeconfig")

    def run(*arguments: str, stdin: Any = None, code: int = 0) -> str:
        ended = subprocess.run(
            [PROGRAMS[request.param], f"--cache-dir={tmp_path}/cache", *arguments],
            input=stdin if stdin is None or isinstance(stdin, str) else yaml.safe_dump(stdin),
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout if code == 0 else ended.stderr

    return run


def plain(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def config_map(name: str, **data: str) -> dict[str, Any]:
    return plain("ConfigMap", name) | {"data": data}


def job(name: str, image: str = "a") -> dict[str, Any]:
    spec = {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": image}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": spec}},
    }


def test_kubectl_applies_on_both_sides(kubectl: Any, kube_api: KubeApi) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=config_map("client", a="1"))
    assert "configured" in kubectl("apply", "-f", "-", stdin=config_map("client", b="2"))
    assert kube_api.get("ConfigMap", "client")["data"] == {"b": "2"}
    apply = ("apply", "--server-side", "--field-manager=one", "-f", "-")
    kubectl(*apply, stdin=config_map("server", a="1", b="1"))
    kubectl(*apply, stdin=config_map("server", a="2"))
    assert kube_api.get("ConfigMap", "server")["data"] == {"a": "2"}
    other = ("apply", "--server-side", "--field-manager=two", "-f", "-")
    assert 'conflict with "one"' in kubectl(*other, stdin=config_map("server", a="3"), code=1)
    kubectl(*other, "--force-conflicts", stdin=config_map("server", a="3"))
    assert kube_api.get("ConfigMap", "server")["data"] == {"a": "3"}


def test_kubectl_makes_shows_and_deletes(kubectl: Any, kube_api: KubeApi) -> None:
    kubectl("create", "-f", "-", stdin=plain("Namespace", "training"))
    kubectl("apply", "-n", "training", "-f", "-", stdin=plain("ServiceAccount", "packtrain"))
    assert "already exists" in kubectl("create", "-f", "-", stdin=plain("Namespace", "training"), code=1)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": "t"}}
    kubectl("apply", "-n", "training", "-f", "-", stdin=secret)
    kubectl("annotate", "serviceaccount", "packtrain", "a/b=c", "-n", "training")
    found = json.loads(kubectl("get", "serviceaccount", "packtrain", "-n", "training", "-o", "json"))
    assert found["metadata"]["annotations"]["a/b"] == "c"
    assert "packtrain" in kubectl("get", "sa", "-A")
    assert "NotFound" in kubectl("get", "secret", "none", code=1)
    kubectl("delete", "namespace", "training", "--timeout=30s")
    assert kube_api.names("ServiceAccount", namespace="training") == []
    assert kubectl("get", "crd", "jobsets.jobset.x-k8s.io", "-o", "name").strip().endswith("jobset.x-k8s.io")
    jobset = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "set"}}
    kubectl("apply", "-f", "-", stdin=jobset | {"spec": {"replicatedJobs": []}})
    assert kubectl("get", "jobset", "-o", "name").strip() == "jobset.jobset.x-k8s.io/set"


def test_kubectl_meets_what_is_immutable(kubectl: Any) -> None:
    kubectl("apply", "-f", "-", stdin=job("train"))
    assert "immutable" in kubectl("apply", "-f", "-", stdin=job("train", image="b"), code=1)
    fixed = config_map("fixed", a="1") | {"immutable": True}
    kubectl("apply", "-f", "-", stdin=fixed)
    assert "immutable" in kubectl("apply", "-f", "-", stdin=fixed | {"data": {"a": "2"}}, code=1)


def test_kubectl_waits_follows_logs_and_meets_faults(kubectl: Any, kube_api: KubeApi) -> None:
    began = threading.Event()

    def story(cluster: Cluster, made: dict[str, Any]) -> None:
        pod = cluster.pod(made)
        pod.run()
        pod.log("step 1", "step 2")
        began.set()
        pod.log("step 3")
        pod.exit(0)
        cluster.complete(made)

    kube_api.play("train", story)
    kubectl("create", "-f", "-", stdin=job("train"))
    kubectl("wait", "--for=condition=complete", "job/train", "--timeout=60s")
    assert began.is_set()
    (pod,) = kube_api.names("Pod")
    assert kubectl("logs", "-f", pod) == "step 1\nstep 2\nstep 3\n"
    kubectl("delete", "job", "train", "--cascade=foreground", "--timeout=30s")
    assert kube_api.names("Pod") == []
    kube_api.faults.add("GET", "/configmaps/x", Fault(403, message='configmaps "x" is forbidden: User'))
    assert "is forbidden" in kubectl("get", "configmap", "x", code=1)
    kube_api.faults.add("GET", "/configmaps/x", Fault(429, headers={"Retry-After": "1"}))
    kube_api.create("ConfigMap", "x")
    assert "configmap/x" in kubectl("get", "configmap", "x", "-o", "name")
