"""Texts become documents: lines are known, lists are taken apart, and whatever is wrong is a sentence."""

from __future__ import annotations

import json

import pytest
from doctor_cases.kit import judged

from packtrain.kube.doctor.documents import parse
from packtrain.kube.doctor.tree import Node, shown

TWO = """\
# a comment
apiVersion: v1
kind: Service
metadata:
  name: first
---
apiVersion: batch/v1
kind: Job
metadata:
  name: second
spec:
  template:
    spec:
      containers:
      - name: a
        image: a:1
      - name: b
        image: b:latest
"""


def test_documents_of_a_file_know_their_lines() -> None:
    first, second = parse(TWO, "a.yaml")
    assert (first.title, first.line) == ("Service/first", 2)
    assert (second.title, second.line) == ("Job/second", 7)
    containers = ("spec", "template", "spec", "containers")
    assert second.line_of((*containers, 1, "image")) == 18
    assert second.line_of((*containers, 1, "resources", "limits")) == 17
    assert second.line_of((*containers, 7)) == 14


def test_a_finding_is_where_it_is_in_the_file() -> None:
    found = [finding for finding in judged(TWO).findings if finding.rule.id == "PT715"]
    assert [(each.line, each.path) for each in found] == [(18, "spec.template.spec.containers[1].image")]


def test_lists_are_taken_apart() -> None:
    items = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} for name in "ab"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1)
    assert [document.title for document in parse(text, "a")] == ["Pod/a", "Pod/b"]
    assert [document.line for document in parse(text, "a")] == [5, 12]
    pools = json.dumps([{"name": "a", "config": {"machineType": "g2-standard-4"}}, {"name": "b"}])
    assert [document.name for document in parse(pools, "a")] == ["a", "b"]


def test_a_path_inside_a_list_begins_at_its_item() -> None:
    pod = {"containers": [{"name": "a", "image": "a"}]}
    items = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}]
    report = judged({"apiVersion": "v1", "kind": "List", "items": items})
    assert [finding.path for finding in report.findings] == ["spec.containers[0].image"]


@pytest.mark.parametrize("text", ["", "---\n---\n", "# nothing\n", "null"])
def test_nothing_is_no_document(text: str) -> None:
    assert parse(text, "a") == []


def test_where_a_text_cannot_be_read_is_said() -> None:
    (document,) = parse("a: 1\nb: [1, 2\nc: 3\n", "a")
    assert document.unreadable
    assert document.line in (2, 3)


def test_an_alias_that_holds_itself_comes_to_an_end() -> None:
    text = "apiVersion: v1\nkind: Pod\nspec: &a {containers: [{image: a:1}], again: *a}\n"
    assert judged(text).pods >= 1


def test_aliases_that_multiply_come_to_an_end() -> None:
    lines = ["apiVersion: v1", "kind: Pod", "a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 30)]
    assert judged("\n".join(lines)).documents == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("16Gi", 16 * 2**30), ("1e3", 1000.0), ("8", 8.0), ("1.5k", 1500.0), ("1E", 1e18)],
)
def test_quantities(text: str, value: float) -> None:
    assert Node(text).quantity == value


@pytest.mark.parametrize("text", ["", "many", "1GB", "0x10", True, None, [], "1e999", "-", "Gi"])
def test_what_is_no_quantity(text: object) -> None:
    assert Node(text).quantity is None


def test_paths_are_shown_as_people_write_them() -> None:
    path = ("metadata", "labels", "app.kubernetes.io/name", 0, "a-b")
    assert shown(path) == 'metadata.labels["app.kubernetes.io/name"][0].a-b'


def test_steps_into_nothing_answer() -> None:
    node = Node({"a": [1, {"b": "2"}]})
    assert node.at("a", 1, "b").integer == 2
    assert not node.at("a", 5, "b", "c").present
    assert list(node["a"]["b"]) == [] and list(node["x"].pairs()) == []
