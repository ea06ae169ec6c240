"""What the imitated controllers make of exit codes, by the policies that are rendered."""

from __future__ import annotations

from typing import Any

import pytest
from launches import launch_of

from packtrain.errors import ALL, BY_EXIT_CODE
from packtrain.kube.manifests import render
from packtrain.kube.rehearsal.controllers import (
    BACKOFF,
    JobFailure,
    PodDecision,
    PodEnd,
    decide_job,
    decide_jobset,
    decide_pod,
)

FATAL = [kind.exit_code for kind in ALL if kind.retry == "no"]
OTHERS = [69, 70, 74, 137, 143, 1]


def job_policy() -> dict[str, Any]:
    policy: dict[str, Any] = render(launch_of())[-1]["spec"]["podFailurePolicy"]
    return policy


def jobset() -> dict[str, Any]:
    spec: dict[str, Any] = render(launch_of(nodes=2))[-1]["spec"]
    return spec


def node_policy() -> dict[str, Any]:
    policy: dict[str, Any] = jobset()["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]
    return policy


def end(exit_code: int, disrupted: bool = False) -> PodEnd:
    return PodEnd("run-node-0-1-abcde", 1, exit_code, disrupted)


def decided(policy: dict[str, Any] | None, exit_code: int, disrupted: bool = False) -> PodDecision:
    return decide_pod(policy, end(exit_code, disrupted), "ml", "trainer")


class TestJob:
    @pytest.mark.parametrize("exit_code", FATAL)
    def test_what_cannot_help_fails_the_job(self, exit_code: int) -> None:
        decision = decided(job_policy(), exit_code)
        assert decision.action == "FailJob"
        assert decision.message == (
            f"Container trainer for pod ml/run-node-0-1-abcde failed with exit code {exit_code} "
            "matching FailJob rule at index 1"
        )

    @pytest.mark.parametrize("exit_code", OTHERS)
    def test_what_may_pass_counts(self, exit_code: int) -> None:
        assert decided(job_policy(), exit_code).action == "Count"

    def test_a_stop_that_saved_does_not_count(self) -> None:
        assert decided(job_policy(), 75).action == "Ignore"

    @pytest.mark.parametrize("exit_code", [*FATAL, *OTHERS, 75])
    def test_a_pod_that_is_taken_away_never_counts(self, exit_code: int) -> None:
        assert decided(job_policy(), exit_code, disrupted=True).action == "Ignore"

    def test_every_exit_code_has_its_action(self) -> None:
        expected = {"no": "FailJob", "counted": "Count", "yes": "Count"}
        for exit_code, kind in BY_EXIT_CODE.items():
            wanted = "Ignore" if exit_code == 75 else expected[kind.retry]
            assert decided(job_policy(), exit_code).action == wanted, exit_code

    def test_the_backoff_limit_is_the_last_failure_that_is_forgiven(self) -> None:
        counted = [PodDecision("Count", "")]
        assert decide_job(counted, 6, 6) is None
        failure = decide_job(counted, 7, 6)
        assert failure is not None and failure.reason == BACKOFF

    def test_fail_job_goes_before_the_count(self) -> None:
        failure = decide_job([PodDecision("Count", ""), PodDecision("FailJob", "because")], 99, 6)
        assert failure == JobFailure("PodFailurePolicy", "because")


class TestPolicies:
    def test_without_a_policy_all_counts(self) -> None:
        assert decided(None, 78, disrupted=True).action == "Count"

    def test_not_in(self) -> None:
        rule = {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [75]}}
        assert decided({"rules": [rule]}, 1).action == "FailJob"
        assert decided({"rules": [rule]}, 75).action == "Count"

    def test_a_rule_for_another_container_does_not_fit(self) -> None:
        rule = {"action": "FailJob", "onExitCodes": {"containerName": "x", "operator": "In", "values": [1]}}
        assert decided({"rules": [rule]}, 1).action == "Count"

    def test_a_rule_that_stands_after_one_that_fits_is_not_asked(self) -> None:
        """The common mistake: exit codes before the condition, so that preempted pods fail the Job."""
        policy = job_policy()
        policy["rules"].reverse()
        assert decided(policy, 78, disrupted=True).action == "FailJob"
        assert decided(job_policy(), 78, disrupted=True).action == "Ignore"


class TestJobSet:
    def failure(self, exit_code: int, disrupted: bool = False) -> JobFailure:
        decision = decided(node_policy(), exit_code, disrupted)
        failure = decide_job([decision], 1 if decision.action == "Count" else 0, 0)
        assert failure is not None
        return failure

    @pytest.mark.parametrize("exit_code", FATAL)
    def test_what_cannot_help_ends_it(self, exit_code: int) -> None:
        decision = decide_jobset(jobset()["failurePolicy"], self.failure(exit_code), "node")
        assert (decision.action, decision.rule) == ("FailJobSet", "final")

    @pytest.mark.parametrize("exit_code", [*FATAL, *OTHERS, 75])
    def test_a_pod_that_is_taken_away_begins_it_anew_and_does_not_count(self, exit_code: int) -> None:
        failure = self.failure(exit_code, disrupted=True)
        assert failure.message.startswith("Pod ml/run-node-0-1-abcde has condition DisruptionTarget")
        decision = decide_jobset(jobset()["failurePolicy"], failure, "node")
        assert (decision.action, decision.rule) == ("RestartJobSetAndIgnoreMaxRestarts", "preempted")

    def test_a_stop_that_saved_does_not_count_either(self) -> None:
        decision = decide_jobset(jobset()["failurePolicy"], self.failure(75), "node")
        assert (decision.action, decision.rule) == ("RestartJobSetAndIgnoreMaxRestarts", "saved")

    @pytest.mark.parametrize("exit_code", OTHERS)
    def test_all_else_counts(self, exit_code: int) -> None:
        decision = decide_jobset(jobset()["failurePolicy"], self.failure(exit_code), "node")
        assert (decision.action, decision.rule) == ("RestartJobSet", None)

    def test_a_rule_for_another_job_does_not_fit(self) -> None:
        policy = {"rules": [{"action": "FailJobSet", "targetReplicatedJobs": ["other"]}]}
        assert decide_jobset(policy, self.failure(65), "node").action == "RestartJobSet"

    def test_without_a_policy_it_fails(self) -> None:
        assert decide_jobset(None, self.failure(65), "node").action == "FailJobSet"
