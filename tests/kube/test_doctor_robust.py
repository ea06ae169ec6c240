"""Whatever a document is, the doctor answers: mutated manifests, pools and policies never raise."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from doctor_cases import ALL as CASES
from doctor_cases.gcloud import CLUSTER, PRINCIPAL, policy
from doctor_cases.kit import jobset, judged, workload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packtrain.kube.doctor.documents import parse
from packtrain.kube.doctor.lint import lint
from packtrain.kube.doctor.show import lines, to_json

BASES = (workload(), jobset(), CLUSTER, policy("storage.admin", PRINCIPAL))
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["8", "1Gi", "true", "gs://a", "trap 'exit 0' TERM", "[", "${A}", "bash", "-c"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        found += places(value, (*path, key))
    return found


PLACES = [places(base) for base in BASES]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    index = draw(st.integers(0, len(BASES) - 1))
    data = copy.deepcopy(BASES[index])
    for path in draw(st.lists(st.sampled_from(PLACES[index]), min_size=1, max_size=3)):
        parent = data
        try:
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = draw(ANYTHING)
        except (KeyError, IndexError, TypeError):  # an earlier mutation took the place away
            continue
    return data


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_documents_never_raise(data: Any) -> None:
    report = judged(data)
    assert list(lines(report))
    json.dumps(to_json(report))


@settings(max_examples=150, deadline=None)
@given(ANYTHING)
def test_no_document_raises(data: Any) -> None:
    judged(data)
    judged({"apiVersion": "batch/v1", "kind": "Job", "metadata": data, "spec": {"template": data}})
    pod = {"containers": [{"image": "a", "command": data, "env": data, "resources": data}], "volumes": data}
    judged({"apiVersion": "v1", "kind": "Pod", "metadata": data, "spec": pod})


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="{}[]:-&*!|>%#\"'\n\t abkind1", max_size=80))
def test_no_text_raises(text: str) -> None:
    list(lines(lint([parse(text, "a")])))


def test_what_is_found_does_not_depend_on_how_it_is_written() -> None:
    for case in CASES[::7]:
        if isinstance(case.bad, dict):
            of_data = {(each.rule.id, each.path) for each in judged(case.bad).findings}
            for text in (yaml.safe_dump(case.bad), json.dumps(case.bad, indent=2)):
                found = judged(text).findings
                assert {(each.rule.id, each.path) for each in found} == of_data
                assert all(each.line for each in found)
