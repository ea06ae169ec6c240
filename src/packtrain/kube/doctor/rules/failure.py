"""Rules on what happens when a pod ends: what is tried again, what is not, and what a signal looks like."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packtrain.kube.doctor import shell, sources
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.tree import Node
from packtrain.kube.doctor.workloads import Job, JobSet

#: 128 + SIGKILL and SIGTERM: how a preempted pod's process ends that does not handle the signal.
SIGNALS = (137, 143)


def _on_disruption(entry: Node) -> bool:
    return any(each["type"].text == "DisruptionTarget" for each in entry["onPodConditions"])


def _catches(entry: Node, code: int) -> bool:
    codes = entry["onExitCodes"]
    listed = code in [value.integer for value in codes["values"]]
    return listed if codes["operator"].text == "In" else codes["operator"].text == "NotIn" and not listed


@rule(
    Job,
    "PT401",
    "error",
    "A podFailurePolicy on pods that restart in place",
    source=sources.POD_FAILURE_POLICY,
    fix="Set the pod template's restartPolicy to Never.",
)
def restart_policy(job: Job) -> Iterator[Problem]:
    policy = job.pod.spec["restartPolicy"]
    if job.node["podFailurePolicy"].present and policy.text != "Never":
        yield policy, "podFailurePolicy is refused unless restartPolicy is Never"


@rule(
    Job,
    "PT402",
    "error",
    "Exit-code rules that the launcher hides",
    source=sources.TORCHRUN,
    fix="Let a supervisor be the container's first process that ends with the worker's own exit code.",
)
def hidden_exit_codes(job: Job) -> Iterator[Problem]:
    for entry in job.pod_failure_rules:
        codes = entry["onExitCodes"]
        named = codes["containerName"].text
        for container in job.pod.workers if codes.present else ():
            launcher = shell.LAUNCHERS.search(" ".join(container.argv))
            listed = {value.integer for value in codes["values"]}
            only_success = codes["operator"].text == "NotIn" and listed == {0}
            if launcher and not only_success and listed - {1} and named in ("", container.name):
                effect = "catches every failure" if _catches(entry, 1) else "never fits"
                yield (
                    codes["values"],
                    f"container {container.name} runs {' '.join(launcher[1].split())}, which ends with 1 "
                    f"whatever its workers ended with: the rule {effect}",
                )


@rule(
    Job,
    "PT403",
    "error",
    "An exit-code rule for a container that is not there",
    source=sources.POD_FAILURE_POLICY,
    fix="Write the name of one of the pod's containers, or leave containerName out.",
)
def exit_code_container(job: Job) -> Iterator[Problem]:
    names = {container.name for container in job.pod.containers}
    for entry in job.pod_failure_rules:
        named = entry.at("onExitCodes", "containerName")
        if named.text and named.text not in names:
            yield named, f"no container of the pod is called {named.text}"


@rule(
    Job,
    "PT404",
    "error",
    "A preemption is taken for a failure",
    source=sources.POD_FAILURE_POLICY,
    fix="Put a rule on the condition DisruptionTarget before the rules on exit codes.",
)
def disruption_first(job: Job) -> Iterator[Problem]:
    for entry in job.pod_failure_rules:
        if _on_disruption(entry):
            return
        if entry["action"].text == "FailJob" and any(_catches(entry, code) for code in SIGNALS):
            yield (
                entry,
                "a preempted pod ends with 143 or 137, and this rule then fails the whole Job: no rule on "
                "DisruptionTarget stands before it",
            )


@rule(
    Job,
    "PT405",
    "warning",
    "Preemptions count as failures",
    source=sources.POD_FAILURE_POLICY,
    fix="Add a podFailurePolicy rule that Ignores the pod condition DisruptionTarget.",
)
def preemptions_count(job: Job) -> Iterator[Problem]:
    if (
        job.jobset is None
        and job.pod.capacity == "spot"
        and not any(map(_on_disruption, job.pod_failure_rules))
    ):
        limit = job.node["backoffLimit"].integer
        often = f"the {'seventh' if limit is None else f'{limit + 1}th'} preemption ends the Job"
        often = "the first preemption ends the Job" if limit == 0 else often
        yield (
            job.node["podFailurePolicy"],
            f"each preemption of a Spot node counts against backoffLimit: {often}",
        )


@rule(
    Job,
    "PT406",
    "error",
    "A preempted Job is failed for good",
    source=sources.POD_FAILURE_POLICY,
    fix="A Job alone Ignores DisruptionTarget; FailJob is right only inside a JobSet that restarts on it.",
)
def disruption_fails(job: Job) -> Iterator[Problem]:
    for entry in job.pod_failure_rules:
        if job.jobset is None and entry["action"].text == "FailJob" and _on_disruption(entry):
            yield entry, "the Job fails, and is not tried again, when its node is preempted or drained"


@rule(
    JobSet,
    "PT407",
    "error",
    "A preempted JobSet is failed for good",
    source=sources.JOBSET_FAILURE,
    fix="Before it, put RestartJobSetAndIgnoreMaxRestarts on PodFailurePolicy with the message pattern "
    "`has condition DisruptionTarget`, and give this rule the pattern `failed with exit code`.",
)
def preempted_jobset(jobset: JobSet) -> Iterator[Problem]:
    """A JobSet sees of a pod's end only that its Job failed by PodFailurePolicy, and the message."""
    for job in jobset.jobs:
        if not any(
            entry["action"].text == "FailJob" and _on_disruption(entry) for entry in job.pod_failure_rules
        ):
            continue
        name = job.replicated["name"].text if job.replicated is not None else ""
        for entry in jobset.node.at("failurePolicy", "rules"):
            targets = [target.text for target in entry["targetReplicatedJobs"]]
            if (targets and name not in targets) or not _on_disrupted_job(entry):
                continue
            if entry["action"].text == "FailJobSet":
                yield (
                    entry,
                    "a preempted pod fails its Job by PodFailurePolicy, and this rule then fails the JobSet",
                )
            break


def _on_disrupted_job(entry: Node) -> bool:
    """Whether a JobSet's rule is for the failure that a pod with the condition DisruptionTarget makes."""
    reasons = [reason.text for reason in entry["onJobFailureReasons"]]
    if reasons and "PodFailurePolicy" not in reasons:
        return False
    patterns = [pattern.text for pattern in entry["onJobFailureMessagePatterns"]]
    message = "Container for pod default/a-0 has condition DisruptionTarget matching FailJob rule at index 0"
    return not patterns or any(_searches(pattern, message) for pattern in patterns)


def _searches(pattern: str, text: str) -> bool:
    try:
        return bool(re.search(pattern, text))
    except re.error:
        return True


@rule(
    JobSet,
    "PT408",
    "warning",
    "A JobSet that does not start again",
    source=sources.JOBSET_FAILURE,
    fix="Set failurePolicy.maxRestarts generously: a preemption can also show as a collective's error.",
)
def no_restarts(jobset: JobSet) -> Iterator[Problem]:
    policy = jobset.node["failurePolicy"]
    spot = any(job.pod.capacity == "spot" for job in jobset.jobs)
    ignored = any(rule["action"].text == "RestartJobSetAndIgnoreMaxRestarts" for rule in policy["rules"])
    if spot and not policy["maxRestarts"].integer and not ignored:
        yield (
            policy["maxRestarts"],
            "the JobSet runs on Spot nodes and has no restarts: the first preemption ends it",
        )


@rule(
    JobSet,
    "PT409",
    "warning",
    "Old and new pods overlap at a restart",
    source=sources.JOBSET_FAILURE,
    fix="Set failurePolicy.restartStrategy to BlockingRecreate.",
)
def overlapping(jobset: JobSet) -> Iterator[Problem]:
    policy = jobset.node["failurePolicy"]
    restarts = bool(policy["maxRestarts"].integer) or any(policy["rules"])
    together = sum(job.pods for job in jobset.jobs if job.pod.gpus) > 1
    if together and restarts and policy["restartStrategy"].text not in ("BlockingRecreate", "InPlaceRestart"):
        yield (
            policy["restartStrategy"],
            "new pods start while old ones still hold the GPUs and write checkpoints",
        )


@rule(
    JobSet,
    "PT410",
    "warning",
    "Single pods of a JobSet are started again",
    source=sources.JOBSET,
    fix="Set backoffLimit: 0 in the Job's spec, so that the JobSet restarts all of them together.",
)
def inner_backoff(jobset: JobSet) -> Iterator[Problem]:
    together = sum(job.pods for job in jobset.jobs if job.pod.gpus) > 1
    for job in jobset.jobs:
        limit = job.node["backoffLimit"]
        if together and job.pod.gpus and limit.integer != 0:
            yield (
                limit,
                "a pod that failed comes back alone, and the others wait for its old self in a collective",
            )


@rule(
    JobSet,
    "PT411",
    "error",
    "A deadline where a JobSet has none",
    source=sources.JOBSET,
    fix="Write activeDeadlineSeconds in the Job's template; it counts waiting time, and anew after a resume.",
)
def jobset_deadline(jobset: JobSet) -> Iterator[Problem]:
    deadline = jobset.node["activeDeadlineSeconds"]
    if deadline.present:
        yield deadline, "a JobSet's spec has no activeDeadlineSeconds"


@rule(
    Job,
    "PT412",
    "error",
    "Pods that do not know their number",
    source=sources.JOB,
    fix="Set completionMode: Indexed.",
)
def indexed(job: Job) -> Iterator[Problem]:
    if job.jobset is not None or job.node["completionMode"].text == "Indexed" or job.pods < 2:
        return
    for container in job.pod.workers:
        if "JOB_COMPLETION_INDEX" in " ".join(container.argv):
            yield (
                job.node["completionMode"],
                "the command reads JOB_COMPLETION_INDEX, which only an Indexed Job has",
            )


@rule(
    Job,
    "PT413",
    "warning",
    "Fewer pods at a time than the training needs",
    source=sources.JOBSET,
    fix="Set parallelism and completions to the number of nodes.",
)
def all_at_once(job: Job) -> Iterator[Problem]:
    completions = job.node["completions"].integer
    command = " ".join(word for container in job.pod.workers for word in container.argv)
    together = re.search(r"--nnodes|MASTER_ADDR|--master[-_]addr", command) and job.pod.gpus
    if together and completions is not None and completions > (job.node["parallelism"].integer or 1):
        yield (
            job.node["parallelism"],
            f"{completions} pods wait for each other, and fewer run at the same time",
        )


@rule(
    JobSet,
    "PT414",
    "error",
    "An address of the first node that nobody has",
    source=sources.JOBSET,
    fix="Write JOBSET-REPLICATEDJOB-0-0.JOBSET, with the names as they are in this JobSet.",
)
def first_node(jobset: JobSet) -> Iterator[Problem]:
    subdomain = jobset.node.at("network", "subdomain").text or jobset.document.name
    hosts = {
        f"{jobset.document.name}-{job.replicated['name'].text}-{replica}-{index}"
        for job in jobset.jobs
        if job.replicated is not None
        for replica in range(min(job.replicas, 64))
        for index in range(min(job.pods, 64))
    }
    for job in jobset.jobs:
        for container in job.pod.containers:
            for entry in container.node["env"]:
                value = entry["value"]
                if entry["name"].text.endswith("MASTER_ADDR") and re.fullmatch(r"[a-z0-9.-]+", value.text):
                    host, dot, domain = value.text.partition(".")
                    named = domain.split(".")[0]
                    if dot and not host.isdigit() and (host not in hosts or named != subdomain):
                        yield value, f"{value.text} is none of the pods of this JobSet"


RULES = (
    restart_policy,
    hidden_exit_codes,
    exit_code_container,
    disruption_first,
    preemptions_count,
    disruption_fails,
    preempted_jobset,
    no_restarts,
    overlapping,
    inner_backoff,
    jobset_deadline,
    indexed,
    all_at_once,
    first_node,
)
