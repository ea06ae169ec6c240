"""Takes back what setup made, in the opposite order, and says what stays and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from packtrain.errors import ConfigError, ConflictError
from packtrain.gcp import kubectl
from packtrain.gcp.access import bucket_access, identity_access
from packtrain.gcp.ask import Remembering, ask
from packtrain.gcp.carry_out import Report
from packtrain.gcp.commands import Runner
from packtrain.gcp.errors import explain, is_absent
from packtrain.gcp.journal import Journal
from packtrain.gcp.looks import cluster_is_there
from packtrain.gcp.resources import google_account_step
from packtrain.gcp.setup import Options, steps
from packtrain.gcp.site import Site
from packtrain.gcp.steps import Seen, Step, Undo, look_at
from packtrain.kube.names import RUN_LABEL, selector


@dataclass(frozen=True)
class Undoing:
    step: Step
    seen: Seen
    undo: Undo


def undo_steps(site: Site, options: Options) -> list[Step]:
    """All that any setup of this run file can have made, both ways of identity, last first."""
    direct = steps(site, replace(options, via_service_account=False))
    try:
        member = f"serviceAccount:{site.google_account}"
    except ConfigError:  # its name cannot be one of an IAM service account: that way was never gone
        return direct[::-1]
    classical = [
        google_account_step(site),
        *(bucket_access(site, bucket, member) for bucket in site.buckets),
        *(bucket_access(site, bucket, member, read_only=True) for bucket in site.sources),
        identity_access(site),
    ]
    # What notes the rights (the service account) goes after the rights themselves.
    at = next(index for index, step in enumerate(direct) if step.key == "service-account")
    return [*direct[: at + 1], *classical, *direct[at + 1 :]][::-1]


def undo_plan(all_steps: Sequence[Step], runner: Runner, journal: Journal, report: Report) -> list[Undoing]:
    """What would be removed, what stays. Changes nothing."""
    looking = Remembering(runner)
    planned = []
    for step in all_steps:
        if step.key == "credentials":  # before the looks into the cluster: another machine may have made it
            look_at(step, looking)
    for step in all_steps:
        if step.undo is None:
            continue
        report.looking(step)
        unfinished = journal.began(step.key)
        seen = look_at(step, looking, unfinished=unfinished)
        if seen.state == "make" and seen.remaining and unfinished:
            seen = replace(seen, state="there", ours=True)  # half made is made by us
        undo = Undo("leave", seen.sentence) if seen.state == "refused" else step.undo(looking, seen)
        planned.append(Undoing(step, seen, undo))
    return planned


def refuse_while_running(site: Site, runner: Runner) -> None:
    """Errors: :class:`ConflictError` where a run of packtrain still has pods in the namespace."""
    if not cluster_is_there(runner, site):
        return
    found = ask(runner, kubectl.listing("pods", site.namespace, selector())) or {}
    alive = {
        pod["metadata"]["labels"].get(RUN_LABEL, pod["metadata"]["name"])
        for pod in found.get("items", ())
        if (pod.get("status") or {}).get("phase") in {"Pending", "Running"}
    }
    if alive:
        raise ConflictError(
            f"namespace {site.namespace}: still running: {', '.join(sorted(alive))}",
            hint="packtrain cancel RUN stops a run with its state saved",
        )


def take_back(
    planned: Sequence[Undoing], site: Site, runner: Runner, journal: Journal, report: Report
) -> None:
    """Removes what the plan says. The first error ends it; run again, it goes on from there."""
    for each in planned:
        if each.undo.action != "remove":
            continue
        for command in each.undo.commands:
            report.making(each.step, command)
            finished = runner.run(command, timeout=max(each.step.timeout, 600.0))
            if not finished.ok and not is_absent(finished):
                raise explain(command, finished)
        journal.end(each.step.key)
        report.done(each.step, Seen("make", "is removed"))
    if any(each.step.key == "cluster" and each.undo.action == "remove" for each in planned):
        site.kubeconfig.unlink(missing_ok=True)
