"""The way into a run's cluster: a kubeconfig of packtrain's own, never the user's current context.

It is made from what gcloud says of the cluster that the run file names; ``PACKTRAIN_KUBECONFIG`` names
another to use instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError, UnavailableError
from packtrain.gcp.ask import ask
from packtrain.gcp.commands import Programs, Runner
from packtrain.gcp.looks import describe
from packtrain.gcp.site import Site, site_of
from packtrain.kube.api import PATIENCE, Cluster
from packtrain.kube.api_errors import PLUGIN
from packtrain.rundir import write_atomically
from packtrain.storage.retry import RetryPolicy

OVERRIDE = "PACKTRAIN_KUBECONFIG"
#: https://cloud.google.com/kubernetes-engine/docs/how-to/cluster-access-for-kubectl
LOGIN_PLUGIN = {
    "apiVersion": "client.authentication.k8s.io/v1beta1",
    "command": "gke-gcloud-auth-plugin",
    "installHint": PLUGIN,
    "provideClusterInfo": True,
    "interactiveMode": "Never",
}


@contextmanager
def connect(
    config: RunConfig, runner: Runner | None = None, patience: RetryPolicy = PATIENCE
) -> Iterator[Cluster]:
    """The cluster of a run file, tried once. Errors: those of :mod:`~packtrain.kube.api_errors`, of gcloud,
    and :class:`ConfigError` where the run file does not name a cluster."""
    cluster = _connected(config, runner or Programs(), patience)
    try:
        yield cluster
    finally:
        cluster.close()


def _connected(config: RunConfig, runner: Runner, patience: RetryPolicy) -> Cluster:
    namespace = config.cluster.namespace
    named = os.environ.get(OVERRIDE)
    if named:
        return _tried(Path(named).expanduser(), f"the cluster of {OVERRIDE}", namespace, patience)
    site = site_of(config)
    spoken, path = f"the cluster {site.cluster}", site.kubeconfig
    if path.exists():
        try:
            return _tried(path, spoken, namespace, patience)
        except (AccessError, ConfigError, UnavailableError):
            # The cluster may have been made anew since, with another address and certificate.
            if not _renewed(path, site, runner):
                raise
    else:
        _renewed(path, site, runner)
    return _tried(path, spoken, namespace, patience)


def _tried(path: Path, spoken: str, namespace: str, patience: RetryPolicy) -> Cluster:
    cluster = Cluster.open(path, spoken, namespace, patience)
    try:
        cluster.version()
    except BaseException:
        cluster.close()
        raise
    return cluster


def _renewed(path: Path, site: Site, runner: Runner) -> bool:
    """Write the kubeconfig as gcloud describes the cluster now; whether it is another one."""
    described = ask(runner, describe(site))
    if described is None:
        raise ConfigError(
            f"there is no cluster {site.cluster} in {site.location} of project {site.project}",
            hint="packtrain cloud setup RUN --create-cluster makes it",
        )
    data = yaml.safe_dump(kubeconfig(described, site), sort_keys=False).encode()
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, data)
    path.chmod(0o600)
    return True


def kubeconfig(described: dict[str, Any], site: Site) -> dict[str, Any]:
    """From ``gcloud container clusters describe --format=json``.

    Errors: :class:`UnavailableError` for a cluster that has no address yet.
    """
    name = f"gke_{site.project}_{site.location}_{site.cluster}"
    endpoints = described.get("controlPlaneEndpointsConfig") or {}
    by_name = endpoints.get("dnsEndpointConfig") or {}
    by_address = endpoints.get("ipEndpointsConfig") or {}
    private = (described.get("privateClusterConfig") or {}).get("enablePrivateEndpoint")
    hidden = private or by_address.get("enabled") is False or by_address.get("enablePublicEndpoint") is False
    if hidden and by_name.get("allowExternalTraffic") and by_name.get("endpoint"):
        # Its certificate is one that everybody trusts.
        server: dict[str, Any] = {"server": f"https://{by_name['endpoint']}"}
    elif described.get("endpoint"):
        authority = (described.get("masterAuth") or {}).get("clusterCaCertificate")
        server = {"server": f"https://{described['endpoint']}", "certificate-authority-data": authority}
    else:
        raise UnavailableError(
            f"the cluster {site.cluster} has no address yet (it is {described.get('status', 'unknown')})",
            hint="wait until gcloud container clusters list says RUNNING",
        )
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": server}],
        "users": [{"name": name, "user": {"exec": LOGIN_PLUGIN}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
