"""What several steps ask: the project's number, the cluster, the service account in it, who has a role."""

from __future__ import annotations

import os
from typing import Any

from packtrain.errors import AccessError
from packtrain.gcp import kubectl
from packtrain.gcp.ask import ask, checked
from packtrain.gcp.commands import Command, Runner
from packtrain.gcp.errors import explain, is_absent, is_api_off
from packtrain.gcp.site import BUILD_ACCOUNT, PROJECT_NUMBER, Site


def project_number(runner: Runner, site: Site) -> str:
    argv = ("gcloud", "projects", "describe", site.project, "--format=value(projectNumber)")
    number = checked(runner, Command(argv)).strip()
    if not number.isdigit():
        raise AccessError(f"the project {site.project} has no number: gcloud answers {number[:40]!r}")
    return number


def ask_build_account(site: Site) -> Command:
    return Command(("gcloud", "builds", "get-default-service-account", site.in_project))


def build_account(runner: Runner, site: Site) -> str | None:
    """With which Cloud Build builds: Compute Engine's default account, or in older projects its own.

    None where Cloud Build is not enabled yet.
    https://cloud.google.com/build/docs/cloud-build-service-account-updates
    """
    command = ask_build_account(site)
    finished = runner.run(command)
    if not finished.ok and not is_api_off(finished) and not is_absent(finished):
        raise explain(command, finished)
    return finished.stdout.strip() or None if finished.ok else None


def filled(runner: Runner, site: Site, member: str) -> str | None:
    """A member of a policy with what its ``$NAME`` stands for; None where that is not there yet."""
    if f"${PROJECT_NUMBER}" in member:
        return member.replace(f"${PROJECT_NUMBER}", project_number(runner, site))
    if f"${BUILD_ACCOUNT}" in member:
        account = build_account(runner, site)
        return account and member.replace(f"${BUILD_ACCOUNT}", account)
    return member


def describe(site: Site) -> Command:
    argv = ("gcloud", "container", "clusters", "describe", site.cluster, *site.at_cluster, "--format=json")
    return Command(argv)


def list_pools(site: Site) -> Command:
    at = (f"--cluster={site.cluster}", *site.at_cluster)
    return Command(("gcloud", "container", "node-pools", "list", *at, "--format=json"))


def cluster_is_there(runner: Runner, site: Site) -> bool:
    """Whether kubectl can be asked."""
    if os.environ.get("PACKTRAIN_KUBECONFIG"):
        return True
    found = ask(runner, describe(site))
    return found is not None and found.get("status") != "PROVISIONING"


def service_account(runner: Runner, site: Site) -> dict[str, Any] | None:
    """The Kubernetes service account, where it and the cluster are there."""
    if not cluster_is_there(runner, site):
        return None
    found = ask(runner, kubectl.get("serviceaccount", site.service_account, site.namespace))
    return None if found is None else dict(found)


def members(policy: dict[str, Any] | None, role: str) -> set[str]:
    """Who has a role without a condition."""
    bindings = (policy or {}).get("bindings") or []
    return {
        member
        for binding in bindings
        if binding["role"] == role and not binding.get("condition")
        for member in binding.get("members", ())
    }
