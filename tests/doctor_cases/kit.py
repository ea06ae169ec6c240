"""Our own manifests, and what changes them: documents for the doctor."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from dataclasses import dataclass
from typing import Any

from launches import launch_of

from packtrain.kube.doctor.documents import Document, from_data, parse
from packtrain.kube.doctor.lint import Report, lint
from packtrain.kube.manifests import render

Key = str | int
Data = Any

DROP = object()
#: The pod template of a Job, of the Job in our JobSet, and the container in each.
POD: tuple[Key, ...] = ("spec", "template", "spec")
NODE_JOB: tuple[Key, ...] = ("spec", "replicatedJobs", 0, "template", "spec")
NODE_POD: tuple[Key, ...] = (*NODE_JOB, "template", "spec")
MAIN: tuple[Key, ...] = (*POD, "containers", 0)
NODE_MAIN: tuple[Key, ...] = (*NODE_POD, "containers", 0)
DAEMON: tuple[Key, ...] = (*NODE_POD, "initContainers", 0)
SELECTOR: tuple[Key, ...] = (*POD, "nodeSelector")


@dataclass(frozen=True)
class Case:
    rule: str
    bad: Data
    """Plain data, a text, or a list of documents that are judged together."""
    good: Data
    """As near to it as can be, and right."""


def documents(data: Data) -> list[Document]:
    if isinstance(data, str):
        return parse(data, "case.yaml")
    return [
        each for one in (data if isinstance(data, list) else [data]) for each in from_data(one, "case.yaml")
    ]


def judged(data: Data) -> Report:
    return lint([documents(data)])


def found(data: Data) -> set[str]:
    return {finding.rule.id for finding in judged(data).findings}


@functools.cache
def _rendered(key: str) -> list[Data]:
    return render(launch_of(**json.loads(key)))


def workload(**cluster: Any) -> Data:
    """Our Job, or JobSet on several nodes; on a3-megagpu-8g and Spot unless said."""
    return copy.deepcopy(_rendered(json.dumps(cluster, sort_keys=True))[1])


def edited(data: Data, *edits: tuple[tuple[Key, ...], Any]) -> Data:
    """A copy with each value at its path set, or dropped."""
    data = copy.deepcopy(data)
    for path, value in edits:
        parent = data
        for key, following in itertools.pairwise(path):
            if isinstance(parent, dict) and key not in parent:
                parent[key] = [] if isinstance(following, int) else {}
            parent = parent[key]
        if value is DROP:
            del parent[path[-1]]
        elif isinstance(parent, list) and path[-1] == len(parent):
            parent.append(value)
        else:
            parent[path[-1]] = value
    return data


def job(*edits: tuple[tuple[Key, ...], Any], **cluster: Any) -> Data:
    return edited(workload(**cluster), *edits)


def jobset(*edits: tuple[tuple[Key, ...], Any], **cluster: Any) -> Data:
    return edited(workload(nodes=2, **cluster), *edits)


def script(text: str) -> Data:
    """Our Job with a shell script in place of its command."""
    return job(((*MAIN, "command"), ["bash", "-c", text]))


def deployment(pod: Data, labels: Data | None = None) -> Data:
    template = {"metadata": {"labels": labels or {"app": "a"}}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "served"},
        "spec": {"selector": {"matchLabels": labels or {"app": "a"}}, "template": template},
    }
