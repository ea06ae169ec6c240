"""The preflight pod, made, followed and heard: what it may use, before a GPU costs anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from packtrain.errors import BY_EXIT_CODE, BugError, PacktrainError
from packtrain.kube.api import JOB, POD, Cluster
from packtrain.kube.begin import make, remove
from packtrain.kube.follow import State
from packtrain.kube.launch import Launch
from packtrain.kube.names import PREFLIGHT, preflight_name, selector
from packtrain.kube.observe import Pace, Say, Watching
from packtrain.kube.pod_facts import current, read_pod
from packtrain.kube.preflight import render_preflight


@dataclass(frozen=True)
class Answer:
    """What the pod says of one thing that it was to use."""

    name: str
    """``model``, ``data``, ``bucket``; ``run file`` for one that it could not read."""
    subject: str
    error: PacktrainError | None


def ask_in_cluster(cluster: Cluster, launch: Launch, say: Say, pace: Pace) -> list[Answer]:
    """All that the preflight pod found, with the pod's own rights.

    Its Job stays where something failed, so that its log can be read. Errors: what keeps the pod from
    answering.
    """
    run = launch.config.name
    name = preflight_name(run)
    remove(cluster, JOB, name)
    make(cluster, render_preflight(launch))
    watching = Watching(cluster, name, JOB, run, lambda line: say(f"preflight: {line}"), PREFLIGHT, pace=pace)
    state = watching.to_end()
    answers = _heard(cluster, run)
    if state.phase != "succeeded" and all(each.error is None for each in answers):
        raise _unheard(state, cluster, run)
    if all(each.error is None for each in answers):
        remove(cluster, JOB, name)
    return answers


def preflight(cluster: Cluster, launch: Launch, say: Say, pace: Pace) -> None:
    """Errors: what the pod found (77, 78, 69 …), as if it had been found here."""
    answers = ask_in_cluster(cluster, launch, say, pace)
    failed = [each.error for each in answers if each.error is not None]
    for each in answers:
        if each.error is None:
            say(f"preflight: {each.name} {each.subject}: the pod may use it")
    if failed:
        worst = failed[0]
        raise type(worst)("\n".join(f"from the pod: {error}" for error in failed), hint=worst.hint)


def _unheard(state: State, cluster: Cluster, run: str) -> PacktrainError:
    """It ended without an answer: with what it printed last, and the command that shows the rest."""
    kind = BY_EXIT_CODE.get(state.exit_code or BugError.exit_code, BugError)
    own = state.detail.removeprefix("the trainer ")
    detail = f": {own}" if own == state.detail else f" {own}"
    printed = next((line for line in _printed(cluster, run) if line.strip()), "")
    if printed:
        detail += f"; it printed last: {printed.strip()[:300]}"
    log = f"kubectl --namespace {cluster.namespace} logs job/{preflight_name(run)} shows what it printed"
    return kind(f"the preflight pod{detail}", hint="; ".join(filter(None, (state.hint, log))))


def _printed(cluster: Cluster, run: str) -> Iterator[str]:
    """The last lines of the newest pod that has any, the last one first."""
    pods = current([read_pod(pod) for pod in cluster.list(POD, selector(run, PREFLIGHT)).items])
    for pod in reversed(pods):
        with suppress(PacktrainError), cluster.log(pod.name, pod.container, tailLines="20") as lines:
            yield from reversed(list(lines))


def _heard(cluster: Cluster, run: str) -> list[Answer]:
    """From the line that the preflight program has written last; the gravest failure first."""
    for line in _printed(cluster, run):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("packtrain") == "preflight":
                answers = [_answer(check) for check in found["checks"]]
                code = found["exit_code"]
                return sorted(answers, key=lambda each: not each.error or each.error.exit_code != code)
    return []


def _answer(check: dict[str, object]) -> Answer:
    name, subject = str(check["name"]), str(check["subject"])
    if check["ok"]:
        return Answer(name, subject, None)
    # What helps a pod: its token and its rights are others than the user's.
    helps = {
        "bucket": "packtrain cloud setup RUN gives the pod's account its rights",
        "model": "packtrain cloud setup RUN puts the token into the cluster",
        "data": "packtrain cloud setup RUN puts the token into the cluster",
    }
    hint = "; ".join(filter(None, (str(check.get("hint") or ""), helps.get(name, ""))))
    kind = BY_EXIT_CODE.get(int(str(check["exit_code"])), BugError)
    return Answer(name, subject, kind(str(check["message"]), hint=hint or None))
