"""Rules on the shell scripts that pods run: whether failure shows, a stop is heard, and they end."""

from __future__ import annotations

from collections.abc import Iterator

from packtrain.kube.doctor import shell, sources
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.tree import Node
from packtrain.kube.doctor.workloads import Container, Pod


def _words(container: Container) -> Node:
    return container.node["args" if container.node["args"].present else "command"]


@rule(
    Pod,
    "PT501",
    "error",
    "SIGTERM ends in success",
    source=sources.EXIT_ZERO,
    fix="End with the training's own code, or 143: exit 0 makes the pod Succeeded, and the Job done.",
)
def success_on_sigterm(pod: Pod) -> Iterator[Problem]:
    for container in pod.containers if pod.finite else ():
        if not container.sidecar and shell.exits_zero_on_sigterm("\n".join(container.argv)):
            yield (
                _words(container),
                f"container {container.name} exits 0 on SIGTERM: a preempted pod counts as Succeeded",
            )


@rule(
    Document,
    "PT502",
    "warning",
    "A script that makes success of SIGTERM",
    source=sources.EXIT_ZERO,
    fix="End the handler with the training's own exit code, or 143.",
)
def script_success_on_sigterm(document: Document) -> Iterator[Problem]:
    if document.kind == "ConfigMap":
        for name, script in document.root["data"].pairs():
            if shell.exits_zero_on_sigterm(script.text):
                yield script, f"{name} exits 0 on SIGTERM: a preempted pod that runs it counts as Succeeded"


@rule(
    Pod,
    "PT503",
    "error",
    "Failure is hidden by the last command",
    source=sources.JOB,
    fix="Write `set -o pipefail` (in bash) before a pipe; no `|| true` after the training.",
)
def hidden_failure(pod: Pod) -> Iterator[Problem]:
    for container in pod.workers if pod.finite and pod.gpus else ():
        if command := shell.hides_exit_code(container.script):
            yield (
                _words(container),
                f"container {container.name} ends with the code of the last part of `{_short(command)}`: "
                "a training that failed counts as Succeeded",
            )


@rule(
    Pod,
    "PT504",
    "warning",
    "The training does not hear SIGTERM",
    source=sources.TERMINATION,
    fix="Start the training with exec, or pass the signal on with a trap.",
)
def signals(pod: Pod) -> Iterator[Problem]:
    for container in pod.workers if pod.finite and pod.gpus else ():
        script = container.script
        if script and not shell.forwards_signals(script) and not shell.sleeps_for_ever(script):
            yield (
                _words(container),
                f"in container {container.name} a shell is the first process and passes no signal on: "
                "a preempted training is killed without having saved",
            )


@rule(
    Pod,
    "PT505",
    "warning",
    "GPUs that are paid until somebody stops them",
    source=sources.JOB,
    fix="End when the work is done; to look around, use kubectl debug.",
)
def endless(pod: Pod) -> Iterator[Problem]:
    for container in pod.workers if pod.finite and pod.gpus else ():
        script = container.script or " ".join(container.argv)
        if shell.sleeps_for_ever(script):
            yield _words(container), f"container {container.name} sleeps for ever on {pod.gpus} GPUs"


def _short(command: str) -> str:
    words = " ".join(command.split())
    return words if len(words) <= 60 else f"…{words[-58:]}"


RULES = (success_on_sigterm, script_success_on_sigterm, hidden_failure, signals, endless)
