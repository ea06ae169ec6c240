"""``packtrain cloud check``: only looks. Rights, what setup makes, quota, zones, versions."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from packtrain.errors import (
    AccessError,
    ConfigError,
    GateError,
    PacktrainError,
    UnavailableError,
)
from packtrain.gcp.ask import Remembering, ask
from packtrain.gcp.carry_out import Planned
from packtrain.gcp.commands import Command, Runner
from packtrain.gcp.looks import describe
from packtrain.gcp.permissions import role_for
from packtrain.gcp.rights import Tester, held_permissions, missing
from packtrain.gcp.setup import Options
from packtrain.gcp.site import Site
from packtrain.plan.machines import quota_metric

Verdict = Literal["ok", "note", "missing", "failed"]
#: Least GKE versions, and what they bring. gke-facts: sidecars 1.29, flex-start 1.32.2-gke.1652000.
SIDECARS = "1.29.0-gke.0"
FLEX_START = "1.32.2-gke.1652000"
LONG_GRACE = "1.35.0-gke.1171000"
#: Steps without which a run goes all the same, where its image is there or is built elsewhere.
FOR_BUILDS = {"build-bucket", "build-access", "build-source"}


@dataclass(frozen=True)
class Finding:
    title: str
    verdict: Verdict
    """ok; note: works, worth knowing; missing: setup makes it; failed: a run cannot go."""
    sentence: str
    hint: str | None = None
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def worst(findings: Sequence[Finding]) -> int:
    """The exit code: refused access first, then what does not fit, then what is only missing."""
    found = {finding.exit_code for finding in findings}
    order = (AccessError, UnavailableError, GateError, ConfigError)
    return next((kind.exit_code for kind in order if kind.exit_code in found), max(found, default=0))


def from_plan(planned: Sequence[Planned]) -> list[Finding]:
    """What setup's own looks say."""
    return [_from_step(each) for each in planned]


def _from_step(planned: Planned) -> Finding:
    seen, title = planned.seen, planned.step.title
    if seen.error is not None:
        return Finding(title, "failed", seen.sentence, seen.hint, seen.error.exit_code)
    if seen.state in {"make", "later"}:
        needless = planned.step.key in FOR_BUILDS
        said = f"{seen.sentence}: packtrain image build needs it" if needless else seen.sentence
        verdict: Verdict = "note" if needless else "missing"
        code = 0 if needless else ConfigError.exit_code
        return Finding(title, verdict, said, "packtrain cloud setup RUN makes it", code)
    if seen.state == "there":
        return Finding(title, "ok", seen.sentence)
    if seen.state == "differs" and not seen.blocks:
        return Finding(title, "note", seen.sentence, seen.hint)
    if planned.step.key == "secret" and not seen.blocks:
        return Finding(title, "note", seen.sentence, seen.hint)
    verdict = "failed" if seen.state == "differs" else "missing"
    return Finding(title, verdict, seen.sentence, seen.hint, ConfigError.exit_code)


def look_around(
    site: Site, options: Options, runner: Runner, test: Tester = held_permissions
) -> list[Finding]:
    """What no step of setup makes: rights, quota, zones, versions."""
    looking = Remembering(runner)
    findings = []
    for title, look in (
        ("your rights on the project", functools.partial(_rights, test)),
        ("quota", _quota),
        ("zones", _zones),
        ("GKE version", _versions),
    ):
        try:
            findings.append(look(site, options, looking))
        except PacktrainError as error:
            findings.append(Finding(title, "failed", str(error), error.hint, error.exit_code))
    return findings


def _rights(test: Tester, site: Site, options: Options, runner: Runner) -> Finding:
    parts = [
        "project",
        "apis",
        "bucket",
        "bucket-access",
        "cluster",
        "namespace",
        "service-account",
        "secret",
    ]
    parts += ["repository", "image-access"] if site.repository else []
    parts += ["image-build"] if site.builds else []
    parts += ["identity"] if options.via_service_account else []
    parts += ["create-cluster"] if options.create_cluster else []
    parts += ["create-pool"] if options.create_pool else []
    parts += ["networks"] if site.fabric and options.create_pool else []
    lacking = missing(site, runner, parts, test)
    title = "your rights on the project"
    if not lacking:
        return Finding(title, "ok", "all that setup needs")
    permissions = sorted({each for some in lacking.values() for each in some})
    roles = sorted({role for each in permissions if (role := role_for(each))})
    return Finding(
        title,
        # What is there already needs no right to make it, and a right may be given on the thing alone.
        "note",
        f"missing: {', '.join(permissions)}",
        f"for setup; they are in {', '.join(roles)}: an Owner or a Project IAM Admin of {site.project} can"
        " give them, or run the setup",
    )


def _quota(site: Site, _: Options, runner: Runner) -> Finding:
    metric = quota_metric(site.machine, site.capacity)
    needed = site.machine.gpus * site.nodes
    argv = ("gcloud", "compute", "regions", "describe", site.region, site.in_project, "--format=json(quotas)")
    found = ask(runner, Command(argv)) or {}
    quota = next((each for each in found.get("quotas") or () if each["metric"] == metric), None)
    page = f"https://console.cloud.google.com/iam-admin/quotas?project={site.project}"
    title = f"quota {metric} in {site.region}"
    if site.capacity == "reservation":
        return Finding(title, "ok", f"the reservation {site.reservation} has its quota already")
    if quota is None:
        return Finding(
            title, "note", f"is not listed; {needed} GPUs are needed", f"look for {metric}: {page}"
        )
    free = quota["limit"] - quota.get("usage", 0)
    said = f"{quota['limit']:g} GPUs, {quota.get('usage', 0):g} used; {needed} are needed"
    if free >= needed:
        return Finding(title, "ok", said)
    if quota["limit"] >= needed:
        return Finding(
            title, "note", said + ": the run waits until others are done", f"or ask for more: {page}"
        )
    return Finding(title, "failed", said, f"ask for more: {page}", GateError.exit_code)


def _zones(site: Site, options: Options, runner: Runner) -> Finding:
    name = site.machine.name
    argv = ("gcloud", "compute", "machine-types", "list", site.in_project, f"--filter=name={name}")
    listed = ask(runner, Command((*argv, "--format=json(name,zone)"))) or []
    zones = sorted({each["zone"].rpartition("/")[2] for each in listed if each["name"] == name})
    here = [zone for zone in zones if zone.startswith(f"{site.region}-")]
    title = f"zones with {name}"
    wanted = options.zone or (site.location if site.location != site.region else None)
    if wanted and wanted in zones:
        return Finding(title, "ok", wanted)
    if wanted or not here:
        where = wanted or site.region
        elsewhere = f"it is in {', '.join(zones)}" if zones else "no zone of this project has it"
        return Finding(title, "failed", f"{where} does not have it", elsewhere, GateError.exit_code)
    return Finding(title, "ok", ", ".join(here))


def _versions(site: Site, _: Options, runner: Runner) -> Finding:
    cluster = ask(runner, describe(site))
    if cluster is None:
        return Finding("GKE version", "ok", "the cluster is not there yet; a new one is new enough")
    version = cluster.get("currentMasterVersion", "0")
    least = FLEX_START if site.capacity in {"flex-start", "queued"} else SIDECARS if site.nodes > 1 else None
    if least and version_key(version) < version_key(least):
        why = f"cluster.capacity: {site.capacity}" if least == FLEX_START else "several nodes"
        fix = f"gcloud container clusters upgrade {site.cluster} --master --location={site.location}"
        return Finding(
            "GKE version",
            "failed",
            f"{version}; {why} needs {least} or newer",
            f"renew it: {fix} {site.in_project} --cluster-version={least}",
            GateError.exit_code,
        )
    if site.capacity == "spot" and version_key(version) < version_key(LONG_GRACE):
        said = f"{version}: a preempted pod has 15 s to save; up to 120 s from {LONG_GRACE} on"
        return Finding("GKE version", "note", said)
    return Finding("GKE version", "ok", version)


def version_key(version: str) -> tuple[int, ...]:
    """``1.32.2-gke.1652000`` as numbers that compare."""
    return tuple(int(each) for each in re.findall(r"\d+", version))
