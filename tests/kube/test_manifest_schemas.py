"""Every manifest against the schemas of Kubernetes 1.29 and later, and of JobSet, unknown fields refused."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from launches import QUEUES, config_of, every_cluster, launch_of
from schemas import VERSIONS, check, jobset_validator

from packtrain.kube.manifests import render
from packtrain.kube.preflight import render_preflight
from packtrain.kube.serve import Serving, render_serve
from packtrain.plan.machines import machine

#: Leaves whose value a schema says nothing of.
FREE = {"name", "image", "value", "nodeSelector", "labels", "annotations", "requests", "limits", "data"}
FREE |= {"sizeLimit"}


def shape(value: Any, key: str = "") -> Any:
    """What of a manifest a schema can object to: keys and types, and values out of a list."""
    if isinstance(value, dict):
        return {name: shape(each, name) for name, each in value.items()} if key not in FREE else "{}"
    if isinstance(value, list):
        return [shape(each, key) for each in value] if key not in ("command", "args", "values") else "[]"
    return value if isinstance(value, str) and key not in FREE else type(value).__name__


def every_manifest() -> Iterator[dict[str, Any]]:
    for cluster in every_cluster():
        yield from render(launch_of(**cluster))
    for nodes in (1, 2):
        for queue in QUEUES:
            yield from render(launch_of(nodes=nodes, queue=queue, max_cost="5000 USD"))
    yield from render_preflight(launch_of())
    yield from render(launch_of(nodes=2, host_network=True))
    for sections in ({}, {"model": {"source": "gs://models/llama"}}):
        serving = Serving(config_of(**sections), "trainer:1", "gs://b/a", machine("g2-standard-12"))
        yield from render_serve(serving)


@functools.cache
def distinct() -> list[dict[str, Any]]:
    """One manifest of each shape: more than a thousand are of some twenty."""
    return list(
        {json.dumps(shape(manifest), sort_keys=True): manifest for manifest in every_manifest()}.values()
    )


def test_all_kinds_are_among_them() -> None:
    kinds = {each["kind"] for each in distinct()}
    assert kinds == {"ConfigMap", "Job", "JobSet", "Deployment", "Service"}
    assert 15 < len(distinct()) < 60


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_of_kubernetes_takes_every_manifest(version: str) -> None:
    for manifest in distinct():
        check(manifest, version)


def test_the_versions_go_from_native_sidecars_to_later_than_1_33() -> None:
    assert [each.rpartition(".")[0] for each in VERSIONS][:5] == ["1.29", "1.30", "1.31", "1.32", "1.33"]


def broken(manifest: dict[str, Any], path: list[str | int], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


POD: list[str | int] = ["spec", "replicatedJobs", 0, "template", "spec", "template", "spec"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "activeDeadlineSeconds"], 5),
        (["spec", "failurePolicy", "rules", 0, "action"], "Restart"),
        (["spec", "failurePolicy", "restartStrategy"], "Recreated"),
        (["spec", "replicatedJobs", 0, "name"], 3),
        (["spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicies"], {}),
        ([*POD, "serviceAccount_name"], "a"),
        ([*POD, "containers", 0, "resource"], {}),
        ([*POD, "initContainers", 0, "restartPolicy"], 3),
        ([*POD, "tolerations", 0, "effects"], "NoSchedule"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, list) else "",
)
def test_the_schema_of_jobset_finds_what_is_wrong(path: list[str | int], value: Any) -> None:
    (jobset,) = (each for each in render(launch_of(nodes=2)) if each["kind"] == "JobSet")
    jobset_validator().validate(jobset)
    with pytest.raises(jsonschema.ValidationError):
        jobset_validator().validate(broken(jobset, path, value))
