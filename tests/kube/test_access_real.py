"""The way in as a user has it: the real gcloud describes the cluster, its real plugin logs in, over TLS."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from standins.google_cloud import serve_google_cloud
from standins.google_gke import a_cluster
from standins.kube_api import KubeApi
from standins.kube_tls import behind_tls

from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError
from packtrain.gcp.site import site_of
from packtrain.kube.access import connect
from packtrain.kube.api import CONFIG_MAP
from packtrain.storage.retry import RetryPolicy

NEEDED = ("gcloud", "gke-gcloud-auth-plugin")
MISSING = [program for program in NEEDED if shutil.which(program) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed"),
]
QUICK = RetryPolicy(attempts=2, deadline=20.0, first_delay=0.01, max_delay=0.02)
CONFIG = RunConfig.model_validate(
    {
        "name": "train",
        "model": {"source": "org/base"},
        "data": {"train": "org/rows"},
        "output": {"uri": "gs://bucket/out"},
        "cluster": {"project": "my-project", "location": "us-central1", "name": "gpu"},
    }
)


def test_gcloud_describes_the_plugin_logs_in_and_the_certificate_is_checked(
    kube_api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PACKTRAIN_KUBECONFIG", raising=False)
    authority = behind_tls(kube_api, tmp_path)
    with serve_google_cloud() as cloud:
        for name, value in cloud.environment(tmp_path / "gcloud").items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="there is no cluster gpu"), connect(CONFIG):
            pass
        name = "projects/my-project/locations/us-central1/clusters/gpu"
        cloud.clusters[name] = a_cluster("gpu", "us-central1") | {
            "endpoint": kube_api.url.removeprefix("https://"),
            "masterAuth": {"clusterCaCertificate": authority},
        }
        kube_api.token = "stand-in-access-token"
        with connect(CONFIG, patience=QUICK) as cluster:
            assert cluster.get(CONFIG_MAP, "none") is None
        assert stat.S_IMODE(site_of(CONFIG).kubeconfig.stat().st_mode) == 0o600
        kube_api.token = "somebody else's"
        with pytest.raises(AccessError, match="does not accept the login"), connect(CONFIG, patience=QUICK):
            pass
        # Another cluster of the same name, whose authority the kubeconfig does not know.
        cloud.clusters[name]["masterAuth"] = {"clusterCaCertificate": behind_another(tmp_path)}
        site_of(CONFIG).kubeconfig.unlink()
        with pytest.raises(AccessError, match="not who it should be"), connect(CONFIG, patience=QUICK):
            pass


def behind_another(folder: Path) -> str:
    """An authority that has signed nothing here."""
    other = KubeApi()
    try:
        return behind_tls(other, folder)
    finally:
        other.close()
