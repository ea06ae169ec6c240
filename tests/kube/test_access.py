"""Bad weather between here and the cluster: each is one sentence, retried only where it can pass."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins.kube_api import TOKEN, Fault, KubeApi

from packtrain.config import RunConfig
from packtrain.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    GateError,
    PacktrainError,
    UnavailableError,
)
from packtrain.gcp.commands import Command, Finished
from packtrain.gcp.site import site_of
from packtrain.kube.access import connect, kubeconfig
from packtrain.kube.api import CONFIG_MAP, JOBSET, POD, Cluster
from packtrain.kube.api_errors import AlreadyThereError, GoneError
from packtrain.storage.retry import RetryPolicy

QUICK = RetryPolicy(attempts=3, deadline=60.0, first_delay=0.001, max_delay=0.002)
MAP: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}}
CONFIG = RunConfig.model_validate(
    {
        "name": "train",
        "model": {"source": "meta-llama/Meta-Llama-3-8B"},
        "data": {"train": "databricks/databricks-dolly-15k"},
        "output": {"uri": "gs://bucket/out"},
        "cluster": {"project": "my-project", "location": "us-central1", "name": "gpu"},
    }
)


@pytest.fixture
def cluster(kube_api: KubeApi, tmp_path: Path) -> Iterator[Cluster]:
    with closing(open_at(kube_api.kubeconfig(tmp_path / "kubeconfig"))) as opened:
        yield opened


def open_at(path: Path) -> Cluster:
    return Cluster.open(path, "the cluster gpu", "default", QUICK)


def test_objects_are_made_read_applied_and_deleted(cluster: Cluster) -> None:
    made = cluster.create(MAP)
    with pytest.raises(AlreadyThereError):
        cluster.create(MAP)
    assert cluster.get(CONFIG_MAP, "m") == made
    assert cluster.get(CONFIG_MAP, "none") is None
    labelled = MAP | {"metadata": {"name": "m", "labels": {"a": "b"}}, "data": {"a": "1", "b": "2"}}
    assert cluster.apply(labelled)["data"] == {"a": "1", "b": "2"}
    assert [item["metadata"]["name"] for item in cluster.list(CONFIG_MAP, "a=b").items] == ["m"]
    assert cluster.list(CONFIG_MAP, "a=c").items == []
    assert cluster.delete(CONFIG_MAP, "m") is True
    assert cluster.delete(CONFIG_MAP, "m") is False


def test_what_somebody_else_has_set_is_not_overwritten(kube_api: KubeApi, cluster: Cluster) -> None:
    kube_api.create("ConfigMap", "m", data={"a": "theirs"})
    with pytest.raises(ConflictError, match=r"data\.a"):
        cluster.apply(MAP)
    assert cluster.apply(MAP, force=True)["data"] == {"a": "1"}


def test_a_watch_shows_changes_and_ends(kube_api: KubeApi, cluster: Cluster) -> None:
    version = cluster.list(CONFIG_MAP).version
    kube_api.create("ConfigMap", "one")
    kube_api.delete("ConfigMap", "one")
    changes = [change["type"] for change in cluster.watch(CONFIG_MAP, version, seconds=1)]
    assert changes == ["ADDED", "DELETED"]


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_watch_that_is_too_old_says_so(kube_api: KubeApi, cluster: Cluster, when: str) -> None:
    version = cluster.list(CONFIG_MAP).version
    kube_api.create("ConfigMap", "one")
    watch = cluster.watch(CONFIG_MAP, version, seconds=30)
    if when == "during":
        next(watch)
    kube_api.store.compact()
    with pytest.raises(GoneError):
        list(watch)


def test_a_watch_that_is_cut_says_so(kube_api: KubeApi, cluster: Cluster) -> None:
    version = cluster.list(CONFIG_MAP).version
    kube_api.create("ConfigMap", "one")
    kube_api.create("ConfigMap", "two")
    kube_api.faults.add("WATCH", "configmaps", Fault(cut_after=1))
    with pytest.raises(UnavailableError):
        list(cluster.watch(CONFIG_MAP, version, seconds=30))


@pytest.mark.parametrize(
    ("fault", "kind", "said", "tries"),
    [
        (Fault(401), AccessError, "does not accept the login", 1),
        (
            Fault(403, message='configmaps "m" is forbidden: User "me" cannot get resource "configmaps" in'),
            AccessError,
            "no right to get configmaps",
            1,
        ),
        (Fault(403, message="exceeded quota: compute"), GateError, "quota", 1),
        (Fault(404, message='namespaces "none" not found'), ConfigError, "namespace none is not there", 1),
        (Fault(404, message="the server could not find the requested resource"), ConfigError, "404", 1),
        (Fault(409), ConflictError, "somebody else", 1),
        (Fault(410), GoneError, "has forgotten", 1),
        (Fault(422), ConfigError, "does not take what packtrain sends", 1),
        (Fault(429), UnavailableError, "too many requests", 3),
        (Fault(500), UnavailableError, "an error of its own (500)", 3),
        (Fault(503), UnavailableError, "(503)", 3),
        (Fault(drop=True), UnavailableError, "cannot be reached", 3),
        (Fault(418), UnavailableError, "418", 1),
    ],
    ids=lambda value: f"{value.status or 'dropped'}" if isinstance(value, Fault) else None,
)
def test_each_answer_is_one_sentence(
    kube_api: KubeApi,
    cluster: Cluster,
    fault: Fault,
    kind: type[PacktrainError],
    said: str,
    tries: int,
) -> None:
    kube_api.faults.add("GET", "configmaps/m", fault, times=None)
    with pytest.raises(kind) as caught:
        cluster.get(CONFIG_MAP, "m")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kube_api.faults.hits == tries


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(kube_api: KubeApi, cluster: Cluster, status: int) -> None:
    kube_api.create("ConfigMap", "m")
    kube_api.faults.add("GET", "configmaps/m", Fault(status), times=2)
    assert cluster.get(CONFIG_MAP, "m") is not None


def test_a_server_that_asks_for_time_gets_it(kube_api: KubeApi, tmp_path: Path) -> None:
    slept: list[float] = []
    patience = RetryPolicy(attempts=3, sleep=slept.append)
    path = kube_api.kubeconfig(tmp_path / "kubeconfig")
    kube_api.create("ConfigMap", "m")
    kube_api.faults.add("GET", "configmaps/m", Fault(429, headers={"Retry-After": "7"}))
    with closing(Cluster.open(path, "x", "default", patience)) as cluster:
        assert cluster.get(CONFIG_MAP, "m") is not None
    assert slept == [7.0]


def test_a_slow_server_is_given_up(
    kube_api: KubeApi,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("packtrain.kube.api.ANSWER", 0.2)
    kube_api.faults.add("GET", "configmaps/m", Fault(delay=30), times=None)
    with (
        closing(open_at(kube_api.kubeconfig(tmp_path / "kubeconfig"))) as slow,
        pytest.raises(UnavailableError, match="does not answer in time"),
    ):
        slow.get(CONFIG_MAP, "m")


def test_a_server_that_is_not_there(kube_api: KubeApi, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    path = kube_api.kubeconfig(tmp_path / "kubeconfig", server=f"http://127.0.0.1:{port}")
    with (
        closing(open_at(path)) as cluster,
        pytest.raises(UnavailableError, match="refused the connection") as caught,
    ):
        cluster.get(CONFIG_MAP, "m")
    assert "private cluster" in str(caught.value.hint)


def test_a_certificate_that_is_none(kube_api: KubeApi, tmp_path: Path) -> None:
    path = kube_api.kubeconfig(tmp_path / "kubeconfig", server=kube_api.url.replace("http:", "https:"))
    with closing(open_at(path)) as cluster, pytest.raises(AccessError, match="not who it should be"):
        cluster.get(CONFIG_MAP, "m")


def test_a_token_is_sent_and_refused(kube_api: KubeApi, cluster: Cluster) -> None:
    kube_api.token = TOKEN
    assert cluster.get(CONFIG_MAP, "none") is None
    kube_api.token = "another"
    with pytest.raises(AccessError, match="401"):
        cluster.get(CONFIG_MAP, "none")


def plugin(tmp_path: Path, body: str) -> dict[str, Any]:
    program = tmp_path / "login-plugin"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    api = "client.authentication.k8s.io/v1beta1"
    return {"exec": {"apiVersion": api, "command": str(program)}}


def test_the_login_plugin_is_run(kube_api: KubeApi, tmp_path: Path) -> None:
    kube_api.token = TOKEN
    answer = json.dumps({"status": {"token": TOKEN}})
    user = plugin(tmp_path, f"echo '{answer}'")
    with closing(open_at(kube_api.kubeconfig(tmp_path / "kubeconfig", user=user))) as cluster:
        assert cluster.version().startswith("v1.")
        assert cluster.get(CONFIG_MAP, "none") is None


@pytest.mark.parametrize(
    ("user", "kind", "said"),
    [
        ("missing", ConfigError, "gke-gcloud-auth-plugin is not installed"),
        ("failing", AccessError, "no credentials"),
        ("v1", ConfigError, "cannot be used"),
    ],
)
def test_a_login_plugin_that_does_not_log_in(
    kube_api: KubeApi,
    tmp_path: Path,
    user: str,
    kind: type[PacktrainError],
    said: str,
) -> None:
    made = plugin(tmp_path, "echo 'ERROR: no credentials' >&2; exit 1")
    if user == "missing":
        made["exec"]["command"] = str(tmp_path / "gke-gcloud-auth-plugin")
    if user == "v1":
        made["exec"]["apiVersion"] = "client.authentication.k8s.io/v1"
    with (
        closing(open_at(kube_api.kubeconfig(tmp_path / "kubeconfig", user=made))) as cluster,
        pytest.raises(kind, match=said),
    ):
        cluster.version()


@pytest.mark.parametrize("text", ["", "{", "a: [", "clusters: 3", "{}", "clusters: []\ncontexts: []"])
def test_a_damaged_kubeconfig(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match="kubeconfig") as caught:
        open_at(path)
    assert "PACKTRAIN_KUBECONFIG" in str(caught.value.hint)
    assert "\n" not in str(caught.value)


def test_a_missing_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found"):
        open_at(tmp_path / "none")


def test_a_custom_resource_that_is_not_installed(kube_api: KubeApi, cluster: Cluster) -> None:
    kube_api.install()
    with pytest.raises(ConfigError, match="JobSet, which several nodes need"):
        cluster.list(JOBSET)


class Gcloud:
    """Describes one cluster."""

    def __init__(self, described: dict[str, Any] | None) -> None:
        self.described, self.asked = described, 0

    def run(self, command: Command, *, timeout: float = 0.0) -> Finished:
        assert command.argv[:4] == ("gcloud", "container", "clusters", "describe")
        self.asked += 1
        if self.described is None:
            return Finished(1, "", "ERROR: (gcloud.container.clusters.describe) ResponseError: code=404")
        return Finished(0, json.dumps(self.described))


DESCRIBED = {"endpoint": "34.1.2.3", "masterAuth": {"clusterCaCertificate": "Y2E="}, "status": "RUNNING"}


def test_a_kubeconfig_is_made_from_what_gcloud_describes() -> None:
    made = kubeconfig(DESCRIBED, site_of(CONFIG))
    assert made["clusters"][0]["cluster"] == {
        "server": "https://34.1.2.3",
        "certificate-authority-data": "Y2E=",
    }
    login = made["users"][0]["user"]["exec"]
    assert login["command"] == "gke-gcloud-auth-plugin"
    assert login["apiVersion"] == "client.authentication.k8s.io/v1beta1"
    assert made["current-context"] == "gke_my-project_us-central1_gpu"


def test_a_private_cluster_is_reached_by_its_name() -> None:
    by_name = {"dnsEndpointConfig": {"endpoint": "gke-1.us-central1.gke.goog", "allowExternalTraffic": True}}
    described = DESCRIBED | {"controlPlaneEndpointsConfig": by_name}
    private = described | {"privateClusterConfig": {"enablePrivateEndpoint": True}}
    assert kubeconfig(described, site_of(CONFIG))["clusters"][0]["cluster"]["server"] == "https://34.1.2.3"
    (entry,) = kubeconfig(private, site_of(CONFIG))["clusters"]
    assert entry["cluster"] == {"server": "https://gke-1.us-central1.gke.goog"}


def test_a_cluster_without_an_address() -> None:
    with pytest.raises(UnavailableError, match="PROVISIONING"):
        kubeconfig({"status": "PROVISIONING"}, site_of(CONFIG))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PACKTRAIN_KUBECONFIG", raising=False)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "theirs"))
    return site_of(CONFIG).kubeconfig


def test_the_way_in_is_made_once_and_made_anew_when_it_leads_nowhere(
    kube_api: KubeApi,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gcloud = Gcloud(DESCRIBED)
    plain = {"server": kube_api.url}
    monkeypatch.setattr(
        "packtrain.kube.access.kubeconfig",
        lambda described, site: (
            kubeconfig(described, site)
            | {
                "clusters": [{"name": "gke_my-project_us-central1_gpu", "cluster": plain}],
                "users": [{"name": "gke_my-project_us-central1_gpu", "user": {"token": TOKEN}}],
            }
        ),
    )
    for _ in range(2):
        with connect(CONFIG, gcloud, QUICK) as cluster:
            assert cluster.get(POD, "none") is None
    assert gcloud.asked == 1
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o600
    assert not Path(os.environ["KUBECONFIG"]).exists()
    # The cluster was made anew: what is in the file leads nowhere.
    stale = yaml.safe_load(own_cache.read_text())
    stale["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    own_cache.write_text(yaml.safe_dump(stale))
    with connect(CONFIG, gcloud, QUICK):
        assert gcloud.asked == 2


def test_a_cluster_that_is_not_there(own_cache: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cluster gpu") as caught, connect(CONFIG, Gcloud(None)):
        pass
    assert "--create-cluster" in str(caught.value.hint)
    assert not own_cache.exists()


def test_another_kubeconfig_can_be_named(
    kube_api: KubeApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PACKTRAIN_KUBECONFIG", str(kube_api.kubeconfig(tmp_path / "kubeconfig")))
    with connect(CONFIG, Gcloud(None), QUICK) as cluster:
        assert cluster.namespace == "default"
