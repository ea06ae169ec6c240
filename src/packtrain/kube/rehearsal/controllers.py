"""What Kubernetes' controllers make of a pod that failed: the manifest's own policies, as pure functions.

Sources: pkg/controller/job/pod_failure_policy.go of Kubernetes, with its messages and its order, and
pkg/controllers/failure_policy.go of JobSet; the rules' message patterns are of JobSet 0.10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

PodAction = Literal["FailJob", "Ignore", "Count"]
JobSetAction = Literal["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]

POLICY = "PodFailurePolicy"
BACKOFF = "BackoffLimitExceeded"


@dataclass(frozen=True)
class PodEnd:
    """A pod of a Job that has ended."""

    name: str
    index: int
    exit_code: int
    disrupted: bool = False
    """It has the condition DisruptionTarget: Kubernetes took it away, or was about to."""


@dataclass(frozen=True)
class PodDecision:
    action: PodAction
    message: str
    """As the Job's condition has it, where it fails."""


@dataclass(frozen=True)
class JobFailure:
    """Condition ``Failed`` of a Job."""

    reason: str
    message: str


@dataclass(frozen=True)
class JobSetDecision:
    action: JobSetAction
    rule: str | None
    """Name of the rule; None where none fits and Kubernetes' default holds."""


def decide_pod(policy: Mapping[str, Any] | None, end: PodEnd, namespace: str, container: str) -> PodDecision:
    """What a Job with this ``podFailurePolicy`` does about a pod that failed; the first rule that fits."""
    assert end.exit_code != 0
    for index, rule in enumerate((policy or {}).get("rules", ())):
        action = rule["action"]
        conditions = rule.get("onPodConditions") or ()
        if end.disrupted and any(_is_disruption(each) for each in conditions):
            told = f"Pod {namespace}/{end.name} has condition DisruptionTarget"
            return PodDecision(action, f"{told} matching {action} rule at index {index}")
        codes = rule.get("onExitCodes")
        if codes and codes.get("containerName", container) == container and _fits(codes, end.exit_code):
            told = (
                f"Container {container} for pod {namespace}/{end.name} failed with exit code {end.exit_code}"
            )
            return PodDecision(action, f"{told} matching {action} rule at index {index}")
    return PodDecision("Count", "")


def _is_disruption(condition: Mapping[str, Any]) -> bool:
    return bool(condition["type"] == "DisruptionTarget" and condition.get("status", "True") == "True")


def _fits(codes: Mapping[str, Any], exit_code: int) -> bool:
    return bool((exit_code in codes["values"]) == (codes["operator"] == "In"))


def decide_job(decisions: Sequence[PodDecision], failures: int, backoff_limit: int) -> JobFailure | None:
    """Whether a Job fails for the pods that ended: FailJob goes before the count of ``failures`` so far.

    ``failures`` includes those among ``decisions``.
    """
    for decision in decisions:
        if decision.action == "FailJob":
            return JobFailure(POLICY, decision.message)
    if failures > backoff_limit:
        return JobFailure(BACKOFF, "Job has reached the specified backoff limit")
    return None


def decide_jobset(
    policy: Mapping[str, Any] | None, failure: JobFailure, replicated_job: str
) -> JobSetDecision:
    """What a JobSet with this ``failurePolicy`` does about a Job of its that failed."""
    if policy is None:
        return JobSetDecision("FailJobSet", None)
    for rule in policy.get("rules", ()):
        reasons = rule.get("onJobFailureReasons") or [failure.reason]
        patterns = rule.get("onJobFailureMessagePatterns") or [""]
        targets = rule.get("targetReplicatedJobs") or [replicated_job]
        if (
            failure.reason in reasons
            and replicated_job in targets
            and any(re.search(pattern, failure.message) for pattern in patterns)
        ):
            return JobSetDecision(rule["action"], rule.get("name"))
    return JobSetDecision("RestartJobSet", None)
